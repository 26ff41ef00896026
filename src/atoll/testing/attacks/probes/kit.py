"""What every probe needs: outcomes, raw system calls, children that may die, token search."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import json
import os
import platform
import re
import select
import signal
import sys
import traceback
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from atoll.testing.attacks.probes.numbers import NUMBERS

Facts = dict[str, Any]


class Outcome(NamedTuple):
    """What one attempt came to: `blocked` is False only if it reached what it was after."""

    blocked: bool
    detail: str


def held(detail: str) -> Outcome:
    """The wall held."""
    return Outcome(True, detail)


def broke(detail: str) -> Outcome:
    """The attempt got through."""
    return Outcome(False, detail)


def worst(outcomes: Iterable[Outcome]) -> Outcome:
    """One outcome for several attempts: broken if any is, and then naming only those that are."""
    tried = list(outcomes)
    through = [o.detail for o in tried if not o.blocked]
    if through or not tried:
        return broke("; ".join(through) or "nothing was tried")
    return held("; ".join(o.detail for o in tried))


# ---- system calls -------------------------------------------------------------------------------

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.syscall.restype = ctypes.c_long
MACHINE = platform.machine()
REFUSALS = frozenset({errno.EPERM, errno.EACCES, errno.ENOSYS})


def known(name: str) -> bool:
    """True if this machine's architecture has the call at all."""
    return name in NUMBERS[MACHINE]


def call(name: str | int, *arguments: Any) -> tuple[int, int]:
    """Make one raw system call; its value and, if that is -1, its errno."""
    number = name if isinstance(name, int) else NUMBERS[MACHINE][name]
    prepared = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    ctypes.set_errno(0)
    value = LIBC.syscall(ctypes.c_long(number), *prepared)
    return value, ctypes.get_errno() if value == -1 else 0


def error_name(number: int) -> str:
    """``EPERM`` for 1."""
    return errno.errorcode.get(number, str(number))


def refused(name: str, *arguments: Any, also: Iterable[int] = ()) -> Outcome:
    """Make the call: held only if the kernel or the filter refuses it before looking at arguments.

    Arguments are chosen so that a call that is let through fails harmlessly with another errno
    (EINVAL, ENOENT, ...): that counts as broken, because real arguments would have worked.
    """
    if not known(name):
        return held(f"{name}: not on {MACHINE}")
    value, code = call(name, *arguments)
    if value != -1:
        return broke(f"{name} succeeded with {value}")
    if code in REFUSALS or code in set(also):
        return held(f"{name}: {error_name(code)}")
    return broke(f"{name} was let through as far as its arguments: {error_name(code)}")


# ---- children -----------------------------------------------------------------------------------


def in_child(attempt: Callable[[], Outcome], seconds: float = 10.0) -> Outcome:
    """Run `attempt` in a forked child; a child that a signal ends did not get through."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        _report_and_exit(attempt, writer)
    os.close(writer)
    text = _read_until_end(reader, seconds)
    os.close(reader)
    if not text:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if text:
        return Outcome(*json.loads(text))
    if os.WIFSIGNALED(status):
        return held(f"the attempt was ended by signal {os.WTERMSIG(status)}")
    return held(f"the attempt ended silently with status {status}")


def _report_and_exit(attempt: Callable[[], Outcome], writer: int) -> None:
    try:
        outcome = attempt()
    except OSError as error:
        outcome = held(f"{type(error).__name__}: {error}")
    except BaseException:
        outcome = broke("the probe itself failed: " + traceback.format_exc())
    os.write(writer, json.dumps(outcome).encode())
    os._exit(0)


def _read_until_end(descriptor: int, seconds: float) -> bytes:
    pieces = []
    while select.select([descriptor], [], [], seconds)[0]:
        piece = os.read(descriptor, 65536)
        if not piece:
            break
        pieces.append(piece)
    return b"".join(pieces)


# ---- tokens -------------------------------------------------------------------------------------

# A probe is told the hash of a token, never the token, so that finding it proves that it leaked.
TOKEN = re.compile(rb"ATOLL[-]CANARY[-]([0-9a-f]{32})")


def tokens_in(data: bytes, facts: Facts) -> list[str]:
    """The names of the host's and the neighbour's tokens that `data` holds."""
    known_hashes = facts.get("tokens", {})
    found = []
    for match in TOKEN.finditer(data):
        name = known_hashes.get(hashlib.sha256(match[1]).hexdigest())
        if name:
            found.append(str(name))
    return found


def read_some(path: str, size: int = 1 << 20) -> bytes:
    """Up to `size` bytes of a file, without ever blocking on it. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return os.read(descriptor, size)
    finally:
        os.close(descriptor)


def main(probe: Callable[[Facts], Outcome], facts: Facts, leave: bool = True) -> None:
    """Run one probe and print its outcome as one line of JSON; `leave` ends the process then."""
    try:
        outcome = probe(facts)
        line = {"blocked": outcome.blocked, "detail": outcome.detail[:4000]}
    except Exception:
        line = {"blocked": None, "detail": traceback.format_exc()[-4000:]}
    sys.stdout.write("\n" + json.dumps(line) + "\n")
    sys.stdout.flush()
    if leave:
        # Threads and children that the probe left behind must not hold up its report.
        os._exit(0)
