"""Marks: what a command or a context has started, in whatever session and below whatever parent.

A mark is kept in two hard limits that nothing heeds: RLIMIT_LOCKS (unused since Linux 2.6) and
RLIMIT_RTTIME (of real-time processes, which a sandbox cannot have). Every fork and exec inherits
them. Without CAP_SYS_RESOURCE over the machine, which nothing in a sandbox has, a hard limit can be
lowered and never raised (setrlimit(2)). One falls as the other rises with the mark, so that their
sum is the same for all marks: to take another's mark, one of the two would have to be raised. Who
lowers one has a broken mark, and is ended with the next that is ended.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import time

from atoll.guest.refusal import Refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

SPAN = 1 << 48
"""Marks are the numbers from 1 to below this one; 0 stands for none."""

# include/uapi/asm-generic/resource.h, and the names in /proc/PID/limits (fs/proc/base.c).
_KINDS = ((10, b"Max file locks"), (15, b"Max realtime timeout"))
_HIGHEST = 1 << 62
_HARD_COLUMN = 4
_CHASE_SECONDS = 3.0
_QUIET_ROUNDS = 20


class Marks:
    """Gives marks, and ends what bears one. Made before anything of a client runs."""

    def __init__(self) -> None:
        self._tops = [_hard_limit(kind) for kind, _ in _KINDS] if sys.platform == "linux" else []

    def limits(self, mark: int) -> list[tuple[int, int]]:
        """The limits that are this mark: (number, value), soft and hard. None for mark 0.

        Raises:
            Refused: sandbox, as a hard limit of the account leaves no room for marks.
        """
        if not mark or not self._tops:
            return []
        if min(self._tops) < SPAN:
            text = "the account's hard limit of file locks or realtime timeout is too low"
            raise Refused("sandbox", f"what starts here could not be ended: {text}")
        falling, rising = self._tops
        return [(_KINDS[0][0], falling - mark), (_KINDS[1][0], rising - SPAN + mark)]

    def end(self, mark: int, others: Collection[int]) -> None:
        """Send SIGKILL to every process that bears `mark`; returns when there can be none left.

        In a sandbox also to those whose mark is broken or missing, unless they are among `others`
        or in the session of one: a session cannot be joined, so that they descend from it.
        What forks faster than it is found takes every process of its sandbox with it.
        """
        if not self._tops:
            return
        over = time.monotonic() + _CHASE_SECONDS
        if not self._chase(mark, others, over) and os.getpid() == 1:
            os.kill(-1, signal.SIGKILL)  # reaches all at once, forks in flight included

    def _chase(self, mark: int, others: Collection[int], over: float) -> bool:
        """End those that are found, until none is left; False if the time was over before."""
        ended: set[int] = set()
        quiet = 0
        while quiet < _QUIET_ROUNDS:
            newest = _newest()
            found = False
            for pid in _processes():
                if time.monotonic() > over:
                    return False
                if pid not in ended and self._ends(pid, mark, others):
                    ended.add(pid)
                    found = True
            if not found and newest == _newest():
                return True  # nobody was born meanwhile, so nobody was missed
            quiet = 0 if found else quiet + 1
        return True

    def _ends(self, pid: int, mark: int, others: Collection[int]) -> bool:
        """End one process if it has to be; False if it is gone or somebody else's."""
        try:
            # A process's directory stands for it as a pidfd does, whoever has its number later.
            directory = os.open(f"/proc/{pid}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            if not self._belongs(self._mark_of(directory), mark, pid, others):
                return False
            signal.pidfd_send_signal(directory, signal.SIGKILL)
            return True
        except (ProcessLookupError, PermissionError):
            return False  # gone; or a context on its way in, not yet in our user namespace
        finally:
            os.close(directory)

    def _mark_of(self, directory: int) -> int:
        """The mark of a process, or 0 if it is broken or missing."""
        fd = os.open("limits", os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
        try:
            text = os.read(fd, 8192)
        finally:
            os.close(fd)
        if not text:
            raise ProcessLookupError
        values = []
        for (_, name), top in zip(_KINDS, self._tops, strict=True):
            hard = text[text.index(name) :].split(None, _HARD_COLUMN + 1)[_HARD_COLUMN]
            values.append(top - int(hard) if hard.isdigit() else 0)
        return values[0] if sum(values) == SPAN and 0 < values[0] < SPAN else 0

    def _belongs(self, found: int, mark: int, pid: int, others: Collection[int]) -> bool:
        if found or os.getpid() != 1:
            return found == mark and found != 0
        return pid not in others and os.getsid(pid) not in others


def _hard_limit(kind: int) -> int:
    hard = resource.getrlimit(kind)[1]
    return _HIGHEST if hard == resource.RLIM_INFINITY else min(hard, _HIGHEST)


def _processes() -> list[int]:
    """Every process in sight but this one."""
    own = str(os.getpid())
    return [int(name) for name in os.listdir("/proc") if name.isdecimal() and name != own]


def _newest() -> bytes:
    """The number last given to a process or thread of this pid namespace (proc_loadavg(5))."""
    fd = os.open("/proc/loadavg", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 256).split()[-1]
    finally:
        os.close(fd)
