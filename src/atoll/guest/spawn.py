"""Forks one process: descriptors, session, terminal, limits, user, directory, then its program.

The child runs as little Python as possible; what goes wrong before its program runs comes back
through a close-on-exec pipe, whose end of file means that the program runs.
"""

from __future__ import annotations

import errno
import fcntl
import gc
import json
import os
import resource
import signal
import termios

from atoll.guest.descriptors import ALL, close_range
from atoll.guest.refusal import Refused, invalid, of_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from atoll.guest.privileges import Powers
    from atoll.guest.users import Account

# Above every number that a child may be given, so that mapping cannot run over its sources.
_ABOVE = 64
_MAX_REPORT = 8192
_LIMITS = {
    "nofile": resource.RLIMIT_NOFILE,
    "fsize": resource.RLIMIT_FSIZE,
    "nproc": resource.RLIMIT_NPROC,
    "core": resource.RLIMIT_CORE,
}
RLIMITS = tuple(_LIMITS)
"""The limits that `configure` may set."""

_EXEC_CODES = {
    errno.ENOENT: "file_not_found",
    errno.ENOTDIR: "file_not_found",
    errno.EACCES: "file_access_denied",
    errno.EPERM: "file_access_denied",
    errno.ETXTBSY: "file_access_denied",
    errno.EAGAIN: "process_limit",
    errno.ENOMEM: "sandbox",
}


class Plan:
    """A process to fork.

    Attributes:
        account: who runs it.
        fds: its descriptor numbers to those of this process; it gets no others.
        rlimits: soft and hard values, by name.
        mark: limits by number, which are set to just these values; see `marks`.
        tty: its descriptor 0 is its controlling terminal.
        cwd: directory to start in, or None for ``/``.
        strict_cwd: without it, a `cwd` that cannot be entered is replaced by ``/``.
        argv, env: the program to run, if there is no `work`.
        work: what to do in the forked process itself instead.
    """

    __slots__ = (
        "account",
        "argv",
        "cwd",
        "env",
        "fds",
        "mark",
        "rlimits",
        "strict_cwd",
        "tty",
        "work",
    )

    def __init__(self, account: Account, fds: dict[int, int], rlimits: dict[str, int]) -> None:
        self.account = account
        self.fds = fds
        self.rlimits = rlimits
        self.mark: list[tuple[int, int]] = []
        self.tty = False
        self.cwd: bytes | None = None
        self.strict_cwd = True
        self.argv: list[bytes] = []
        self.env: dict[bytes, bytes] = {}
        self.work: Callable[[], None] | None = None


class _Child:
    """A plan as the child needs it.

    All that can be worked out before the fork is: each page that the child touches costs a fault.
    """

    def __init__(self, plan: Plan, powers: Powers, report: int) -> None:
        self.plan = plan
        self.powers = powers
        self.lifted: list[int] = []
        self.report = self._lift(report) if report in plan.fds else report
        self.pairs = [
            (self._lift(fd) if fd in plan.fds else fd, number) for number, fd in plan.fds.items()
        ]
        kept = sorted({*plan.fds, self.report})
        self.gaps = [(low + 1, high) for low, high in zip([-1, *kept], [*kept, ALL], strict=True)]
        self.limits = [(_LIMITS[name], value) for name, value in plan.rlimits.items()]
        self.programs = _candidates(plan.argv[0], plan.env.get(b"PATH", b"")) if plan.argv else []

    def _lift(self, fd: int) -> int:
        """A copy of `fd` above every number that a child may be given, so that none is run over."""
        self.lifted.append(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _ABOVE))
        return self.lifted[-1]

    def run(self) -> NoReturn:
        """Be the child."""
        status = 127
        try:
            self._set_up()
            if self.plan.work is None:
                _execute(self.programs, self.plan.argv, self.plan.env)
            # Handlers end with an exec; this process needs that done by hand.
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.close(self.report)
            self.plan.work()
            status = 0
        except Refused as refused:
            _report(self.report, refused)
        except BaseException as error:
            _report(self.report, Refused("sandbox", f"a process could not be set up: {error!r}"))
        finally:
            os._exit(status)

    def _set_up(self) -> None:
        gc.disable()
        for fd, number in self.pairs:
            os.dup2(fd, number)
        for low, high in self.gaps:
            close_range(low, high)
        os.setsid()
        if self.plan.tty:
            _take_terminal(self.plan.account)
        for kind, value in self.limits:
            _limit(kind, value)
        for kind, value in self.plan.mark:
            resource.setrlimit(kind, (value, value))
        self.powers.become(self.plan.account)
        _enter(self.plan)


def fork(plan: Plan, powers: Powers) -> tuple[int, int]:
    """Start a process by `plan`.

    Returns:
        Its pid, and the pipe that `outcome` reads once it is readable.

    Raises:
        Refused: process_limit.
    """
    report, child_report = os.pipe()
    child = _Child(plan, powers, child_report)
    try:
        pid = os.fork()
        if pid == 0:
            child.run()
    except OSError as error:
        os.close(report)
        code = "process_limit" if error.errno == errno.EAGAIN else "sandbox"
        raise Refused(code, f"the sandbox cannot fork: {error.strerror}") from None
    finally:
        for fd in (child_report, *child.lifted):
            os.close(fd)
    return pid, report


def outcome(report: int) -> Refused | None:
    """Why the process does not run its program; None if it does. Closes the pipe."""
    data = os.read(report, _MAX_REPORT)
    os.close(report)
    if not data:
        return None
    return Refused(*json.loads(data))


def _report(report: int, refused: Refused) -> None:
    data = json.dumps((refused.code, refused.message[: _MAX_REPORT // 8])).encode()
    os.write(report, data)


def _take_terminal(account: Account) -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    try:
        os.fchown(0, account.uid, account.gid)
        os.fchmod(0, 0o620)
    except PermissionError:
        return  # one id only: the terminal is this account's already


def _limit(kind: int, value: int) -> None:
    _, hard = resource.getrlimit(kind)
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(kind, (value, value))


def _enter(plan: Plan) -> None:
    try:
        os.chdir(plan.cwd or b"/")
    except OSError as error:
        if plan.strict_cwd:
            where = (plan.cwd or b"/").decode("utf-8", "replace")
            raise of_file(error, f"working directory {where}") from None
        os.chdir(b"/")


def _execute(programs: list[bytes], argv: list[bytes], env: dict[bytes, bytes]) -> NoReturn:
    failure = OSError(errno.ENOENT, os.strerror(errno.ENOENT))
    for candidate in programs:
        try:
            os.execve(candidate, argv, env)  # noqa: S606 - what a guest is for
        except OSError as error:
            # As execvp(3): the search goes on, and a file that may not be run is remembered.
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                failure = error
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.EACCES):
                break
            if error.errno == errno.ENOENT and os.path.exists(candidate):
                failure = OSError(errno.ENOENT, "its interpreter does not exist")
    shown = argv[0].decode("utf-8", "replace")
    if failure.errno not in _EXEC_CODES:
        raise invalid(f"{shown:.200}: {failure.strerror}")
    raise Refused(_EXEC_CODES[failure.errno], f"{shown:.200}: {failure.strerror}")


def _candidates(name: bytes, path: bytes) -> list[bytes]:
    if b"/" in name:
        return [name]
    return [(directory or b".") + b"/" + name for directory in path.split(b":")]
