"""Ways to live on after one's end: orphaned, in another session, stopped, on the run, unmarked."""

from __future__ import annotations

import functools
import os
import resource
import signal
import sys
import time
from collections.abc import Iterator

from atoll.testing.attacks.probes.kit import Facts, Outcome, broke, held, in_child, worst

_MARK = {10: b"Max file locks", 15: b"Max realtime timeout"}
"""The limits by which Atoll knows what a command has started (its source is no secret)."""


def outlive(facts: Facts) -> Outcome:
    """Ignore every signal, fork twice, leave the session, keep stdout open, and stay.

    With the fact `shed`, lose what tells whose process this is first.
    """
    _ignore_signals()
    for kind in _MARK if facts.get("shed") else ():
        resource.setrlimit(kind, (1000, 1000))
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            while True:
                _beat(facts)
                time.sleep(0.05)
        os._exit(0)
    return _stay()


def outrun(facts: Facts) -> Outcome:
    """Never be the same process for long: several chains of forks, each link in a new session."""
    _ignore_signals()
    for _ in range(int(facts["chains"])):
        if os.fork() == 0:
            _run_away(facts)
    return _stay()


def _run_away(facts: Facts) -> None:
    last = 0.0
    while True:
        try:
            if os.fork():
                os._exit(0)
        except OSError:  # no pids are left: until others have been reaped
            continue
        os.setsid()
        if time.monotonic() > last + 0.05:
            _beat(facts)
            last = time.monotonic()


def _ignore_signals() -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)


def _beat(facts: Facts) -> None:
    """Write the time into a file, so that the host sees whether we still live."""
    with open(facts["path"], "w") as file:
        file.write(str(time.monotonic()))


def _stay() -> Outcome:
    print("started", flush=True)
    while True:
        time.sleep(60)


def stop_self(facts: Facts) -> Outcome:
    """Stop with SIGSTOP: a stopped process does not see SIGTERM."""
    del facts
    print("started", flush=True)
    sys.stdout.flush()
    while True:
        os.kill(os.getpid(), signal.SIGSTOP)


def take_mark(facts: Facts) -> Outcome:
    """Raise the limits that are this command's mark, or set both to those of another process."""
    del facts
    own = {kind: resource.getrlimit(kind)[1] for kind in _MARK}
    if resource.RLIM_INFINITY in own.values():
        return broke("it bears no mark at all")
    wanted = [{kind: value} for kind in _MARK for value in (own[kind] + 1, resource.RLIM_INFINITY)]
    wanted += [theirs for theirs in _marks() if theirs != own]
    tried = [in_child(functools.partial(_set, limits)) for limits in wanted]
    return worst(tried)


def _set(limits: dict[int, int]) -> Outcome:
    for kind, value in limits.items():
        try:
            resource.setrlimit(kind, (value, value))
        except (OSError, ValueError) as error:
            return held(f"limit {kind}: {error}")
    return broke(f"limits {sorted(limits)} were set to {sorted(limits.values())}")


def _marks() -> Iterator[dict[int, int]]:
    for name in os.listdir("/proc"):
        if not name.isdecimal():
            continue
        try:
            with open(f"/proc/{name}/limits", "rb") as file:
                text = file.read()
        except OSError:
            continue
        words = {kind: text[text.index(line) :].split()[4] for kind, line in _MARK.items()}
        yield {kind: int(word) if word.isdigit() else -1 for kind, word in words.items()}
