"""PID 1 of a sandbox: takes the host's requests, starts processes, reaps, ends with the channel.

One thread, one loop: whatever could wait on something hostile is done in a forked process.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import socket
import time
from collections import deque

from atoll.guest import commands, dispositions, fields, privileges, spawn
from atoll.guest.channel import MAX_PACKET, Channel, close_all, encode
from atoll.guest.marks import SPAN, Marks
from atoll.guest.refusal import Refused, invalid
from atoll.guest.users import Accounts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any, NoReturn

    from atoll.guest.fields import Request
    from atoll.guest.spawn import Plan

_MAX_SIGNAL = 64
_MAX_SHOWN = 60
_MAX_LISTED = 50_000
_MAX_ENDED = 64
_REAPED_AT_ONCE = 64
_REHEARSALS = 12  # after 8 calls the bytecode of a function changes no more, nor then in a fork
_REHEARSED = {
    "n": 1,
    "op": "configure",
    "env": {"PATH": "/bin", "HOME": "/"},
    "rlimits": {"nofile": 1024, "fsize": None, "core": 0, "nproc": None},
    "cwd": "/",
    "user": "user",
}


class Child:
    """A process that the guest has forked and not yet reaped."""

    __slots__ = ("announced", "mark", "n", "name", "report")

    def __init__(self, n: int, name: str, mark: int, report: int, announced: bool) -> None:
        self.n = n
        self.name = name
        self.mark = mark
        self.report = report
        """The pipe that tells whether its program runs; -1 once it does."""
        self.announced = announced
        """Whether its end is an event for the host."""


class Init:
    """The state of one guest, and what it does for each request."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._poll = select.poll()
        self._children: dict[int, Child] = {}
        self._reports: dict[int, int] = {}
        self._ended: deque[int] = deque(maxlen=_MAX_ENDED)
        self._accounts = Accounts()
        self._marks = Marks()
        self._powers: privileges.Powers | None = None
        self._defaults = commands.Defaults(_null())
        self._deadline: float | None = None
        self._childless = True
        self._unreaped = False
        self._operations = {
            "configure": self._configure,
            "start": self._start,
            "context": self._context,
            "file": self._file,
            "signal": self._signal,
            "end": self._end,
            "processes": self._processes,
            "shutdown": self._shutdown,
        }

    def run(self) -> None:
        """Serve until the host is gone or has asked for the end."""
        wakeup = _watch_children()
        channel = self._channel.fileno()
        self._poll.register(wakeup, select.POLLIN)
        self._poll.register(channel, select.POLLIN)
        self._greet()
        while not self._finished():
            for fd, _ in self._poll.poll(self._patience()):
                if fd == wakeup:
                    _drain(wakeup)
                    self._reap()
                elif fd != channel:
                    self._started(fd)
                elif not self._serve():
                    return
            if self._unreaped:
                self._reap()
            self._poll.modify(channel, self._interest())

    def rehearse(self, host: socket.socket) -> None:
        """Greet, and take a request from the other end of the channel."""
        self._greet()
        host.send(encode(_REHEARSED).encode())
        self._serve()
        commands.command({**_REHEARSED, "argv": ["true"]}, [], self._defaults, self._accounts)
        self._marks.limits(1)
        for _ in range(2):
            host.recv(MAX_PACKET)

    def close(self) -> None:
        """Give back what `__init__` opened."""
        os.close(self._defaults.null)
        self._channel.close()

    def end(self) -> None:
        """Kill what still runs: where this is not PID 1, the kernel does not do it."""
        if os.getpid() == 1:
            return
        for pid in self._children:
            _kill(pid, signal.SIGKILL, group=True)

    def _greet(self) -> None:
        self._channel.send({"event": "ready", "protocol": 1})

    def _interest(self) -> int:
        wanted = 0 if self._channel.congested else select.POLLIN
        return wanted | (select.POLLOUT if self._channel.unsent else 0)

    def _patience(self) -> float | None:
        if self._unreaped:
            return 0
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic()) * 1e3

    def _finished(self) -> bool:
        if self._deadline is None:
            return False
        return time.monotonic() >= self._deadline or self._childless

    def _serve(self) -> bool:
        """Take one request; False at the end of the channel."""
        self._channel.flush()
        if self._channel.congested:
            return True
        try:
            received = self._channel.receive()
        except BlockingIOError:
            return True
        except Refused as refused:
            self._channel.send({"n": 0, "error": refused.as_json()})
            return True
        if received is None:
            return False
        request, fds = received
        n = request.get("n")
        n = n if isinstance(n, int) else 0
        try:
            reply = self._perform(n, request, fds)
        except Refused as refused:
            self._channel.send({"n": n, "error": refused.as_json()})
        else:
            if reply is not None:
                self._channel.send({"n": n, "ok": reply})
        finally:
            close_all(fds)
        return True

    def _perform(self, n: int, request: Request, fds: list[int]) -> dict[str, Any] | None:
        operation = self._operations.get(fields.text(request, "op"))
        if operation is None:
            raise invalid(f"there is no operation {request['op']!r:.80}")
        try:
            return operation(n, request, fds)
        except OSError as error:
            raise Refused("sandbox", f"{request['op']}: {error.strerror}") from None

    def _configure(self, n: int, request: Request, fds: list[int]) -> dict[str, Any]:
        self._defaults = commands.configured(request, self._defaults.null)
        return {}

    def _start(self, n: int, request: Request, fds: list[int]) -> None:
        plan = commands.command(request, fds, self._defaults, self._accounts)
        self._fork(n, plan, plan.argv[0], mark=_mark(request))

    def _context(self, n: int, request: Request, fds: list[int]) -> None:
        plan, name = commands.context(request, fds, self._defaults, self._accounts)
        self._fork(n, plan, name, mark=_mark(request))

    def _file(self, n: int, request: Request, fds: list[int]) -> None:
        plan = commands.file_worker(request, fds, self._defaults, self._accounts)
        self._fork(n, plan, b"", announced=False)

    def _fork(
        self, n: int, plan: Plan, name: bytes, *, mark: int = 0, announced: bool = True
    ) -> None:
        if self._deadline is not None:
            raise Refused("sandbox", "the sandbox is shutting down")
        if self._powers is None:
            self._powers = privileges.Powers.held()
        plan.mark = self._marks.limits(mark)
        pid, report = spawn.fork(plan, self._powers)
        self._childless = False
        shown = name.decode("utf-8", "replace")[:_MAX_SHOWN]
        self._children[pid] = Child(n, shown, mark, report, announced)
        self._reports[report] = pid
        self._poll.register(report, select.POLLIN)

    def _started(self, report: int) -> None:
        """Answer the request of a process that now runs its program, or never will."""
        pid = self._reports.pop(report, None)
        if pid is None:
            return
        self._poll.unregister(report)
        child = self._children[pid]
        child.report = -1
        refused = spawn.outcome(report)
        if refused:
            child.announced = False
            self._channel.send({"n": child.n, "error": refused.as_json()})
        else:
            self._channel.send({"n": child.n, "ok": {"pid": pid}})

    def _reap(self) -> None:
        """Reap some: whoever makes children without end must not keep the host waiting."""
        self._unreaped = True
        for _ in range(_REAPED_AT_ONCE):
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                self._childless = True
                pid = 0
            if pid == 0:
                self._unreaped = False
                return
            child = self._children.get(pid)
            if child is None:
                continue
            if child.report >= 0:
                self._started(child.report)
            del self._children[pid]
            self._ended.append(pid)
            if child.announced:
                cpu = round(usage.ru_utime + usage.ru_stime, 6)
                self._channel.send({"event": "exit", "pid": pid, "status": status, "cpu": cpu})

    def _signal(self, n: int, request: Request, fds: list[int]) -> dict[str, Any]:
        pid = fields.number(request, "pid")
        number = fields.number(request, "signal")
        if not 1 <= number <= _MAX_SIGNAL:
            raise Refused("unknown_signal", f"there is no signal {number}")
        known = pid in self._children or (fields.flag(request, "foreign") and self._ours(pid))
        if not known or not _kill(pid, number, fields.flag(request, "group")):
            raise Refused("process_not_found", f"no running process {pid}")
        return {}

    def _end(self, n: int, request: Request, fds: list[int]) -> dict[str, Any]:
        """SIGKILL to all that bears a mark; of a child, its own mark is known."""
        pid = fields.number(request, "pid", 0)
        child = self._children.get(pid)
        # One stroke for those who stayed in its group. Where nothing has a mark it is all there is.
        if child is not None or (os.getpid() != 1 and pid in self._ended):
            _kill(pid, signal.SIGKILL, group=True)
        mark = child.mark if child is not None else _mark(request)
        self._marks.end(mark, self._children.keys() - {pid})
        return {}

    def _ours(self, pid: int) -> bool:
        """Of what is no child: a context forked from the zygote, a group whose leader has ended.

        PID 1 sees nothing but its sandbox; without walls only what was once started counts.
        """
        return pid > 1 if os.getpid() == 1 else pid in self._ended

    def _processes(self, n: int, request: Request, fds: list[int]) -> dict[str, Any]:
        listed: list[dict[str, Any]] = []
        size = 0
        for pid, child in self._children.items():
            size += 40 + 12 * len(child.name)
            if child.announced and child.report < 0 and size < _MAX_LISTED:
                listed.append({"pid": pid, "argv0": child.name})
        return {"processes": listed}

    def _shutdown(self, n: int, request: Request, fds: list[int]) -> dict[str, Any]:
        grace = request.get("grace", 0)
        if isinstance(grace, bool) or not isinstance(grace, int | float) or not 0 <= grace <= 3600:
            raise invalid(f"'grace' must be seconds from 0 to 3600, not {grace!r:.80}")
        self._deadline = time.monotonic() + grace
        for number in (signal.SIGTERM, signal.SIGCONT):
            if os.getpid() == 1:
                _kill(-1, number, group=False)
            else:
                for pid in self._children:
                    _kill(pid, number, group=True)
        return {}


def _mark(request: Request) -> int:
    return fields.number(request, "mark", 0, SPAN - 1)


def serve(channel_fd: int, settled: bool = False) -> NoReturn:
    """Be the guest on this channel until its other end is closed; never returns.

    Args:
        channel_fd: this end of the channel.
        settled: `settle` was called by the process that this one was forked from.
    """
    try:
        if not settled:
            settle()
        gc.enable()
        init = Init(Channel(channel_fd))
        try:
            init.run()
        finally:
            init.end()
    except (BrokenPipeError, ConnectionError):
        os._exit(0)  # the host is gone, and so is every reason to live
    except BaseException as error:
        os.write(2, f"the guest ends: {error!r}\n".encode("utf-8", "replace"))
        os._exit(70)
    os._exit(0)


def rehearse() -> None:
    """In a process from which guests are forked: go the ways that each of them will go.

    What Python writes into the code and the memory of first calls is then shared by all of them.
    """
    host, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with host, contextlib.closing(Init(Channel(far.detach()))) as init:
        for _ in range(_REHEARSALS):
            init.rehearse(host)


def settle() -> None:
    """What every process below inherits: default signals, no mask, umask 022, no new privileges."""
    dispositions.reset()
    privileges.forbid_new_privileges()
    privileges.hide_memory()
    privileges.adopt_orphans()
    os.umask(0o022)
    os.chdir("/")


def _null() -> int:
    """/dev/null, with 0 to 2 taken, so that nothing received later lands there."""
    while (fd := os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)) <= 2:
        continue
    return fd


def _watch_children() -> int:
    """A descriptor that becomes readable whenever a child has ended."""
    wakeup, write = os.pipe()
    os.set_blocking(wakeup, False)
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, _note)
    return wakeup


def _note(number: int, frame: FrameType | None) -> None:
    """SIGCHLD: the wakeup descriptor tells."""


def _drain(fd: int) -> None:
    try:
        os.read(fd, 65536)
    except BlockingIOError:
        return


def _kill(pid: int, number: int, group: bool) -> bool:
    """False if it has ended."""
    try:
        if group:
            os.killpg(pid, number)
        else:
            os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True
