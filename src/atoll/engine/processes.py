"""The processes that a client started in one sandbox: their pipes, their output, their end."""

from __future__ import annotations

import asyncio
import os
import signal as signals
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from contextvars import copy_context
from dataclasses import asdict, dataclass, replace
from typing import Any

import anyio

from atoll.engine.channel import Answer, GuestChannel, Reply
from atoll.engine.output import Output
from atoll.engine.pipes import PipeSink, PipeSource, make_pipe
from atoll.engine.sandbox_watch import ProcessWatch, SandboxWatch
from atoll.engine.start_request import StartRequest
from atoll.engine.vault import Vault
from atoll.engine.wait_status import exit_code_of, signal_name
from atoll.model import (
    AtollError,
    CommandResult,
    GuestBroken,
    KilledBy,
    NotFound,
    ProcessLimitReached,
    ProcessNotFound,
    SandboxError,
)

DRAIN_SECONDS = 0.25
"""After the exit, how long a process left behind may still add to the output."""

GRACE_SECONDS = 2.0
"""Between SIGTERM and SIGKILL."""

DEATH_SECONDS = 10.0
"""How long a killed process may take to be reported as ended; then the guest counts as broken."""

_DISCARD = 64 << 20
_BY_SIGNAL = {int(signals.SIGXFSZ): KilledBy.DISK, int(signals.SIGXCPU): KilledBy.CPU}


@dataclass(frozen=True)
class _Ends:
    """Descriptors made for one process: given to it, as which of its own, and kept by the host."""

    handed_in: list[int]
    mapping: dict[str, int]
    kept: list[int]


class Process:
    """One started process; lives on in the handles that hold it after it has ended."""

    def __init__(
        self, pid: int, request: StartRequest, output: Output, watch: ProcessWatch, loop_time: float
    ) -> None:
        self.pid = pid
        self.request = request
        self.output = output
        self.watch = watch
        self.stdin: PipeSink | None = None
        self.sources: dict[str, PipeSource] = {}
        self.killed_by: KilledBy | None = None
        self.done = anyio.Event()
        self.exited: int | None = None
        """Wait status, once the guest has reported it; `done` follows when the output is read."""
        self._started = loop_time
        self._status = 0
        self._error: SandboxError | None = None
        self._duration = 0.0

    @property
    def exit_code(self) -> int | None:
        """Exit status, or 128 + the signal's number; None while it runs."""
        return exit_code_of(self._status) if self.done.is_set() else None

    def end(self, status: int, error: SandboxError | None = None) -> None:
        """Note how it ended; readers and waiters go on. Only the first call counts."""
        if self.done.is_set():
            return
        self._status, self._error = status, error
        self._duration = time.monotonic() - self._started
        if self.stdin is not None:
            self.stdin.close()
        self.output.finish()
        self.watch.ended(status, self.killed_by)
        self.done.set()

    def result(self) -> CommandResult:
        """How it ended. Raises SandboxDied or GuestBroken if its sandbox ended first."""
        if self._error is not None:
            raise self._error
        number = os.WTERMSIG(self._status) if os.WIFSIGNALED(self._status) else 0
        stream = "stdout" if self.request.terminal is None else "pty"
        return CommandResult(
            stdout=self.output.text(stream),
            stderr=self.output.text("stderr"),
            exit_code=exit_code_of(self._status),
            signal=signal_name(number) if number else None,
            killed_by=self.killed_by,
            duration=self._duration,
        )


def _silent(process: Process) -> bool:
    return all(source.closed for source in process.sources.values())


class Processes:
    """Starts, ends and knows the processes of one sandbox.

    Args:
        channel: to the guest.
        sandbox_id: for error texts.
        output_limit: bytes a process may write before it is killed.
        most: how many may be alive at once, or None.
        breach: which limit the kernel has just enforced, if any.
        open_pty: makes a terminal of (rows, columns): master and slave.
        vault: keeps their pipes for a later process of the same owner.
        watch: is told of their starts, output and ends.
    """

    def __init__(
        self,
        channel: GuestChannel,
        sandbox_id: str,
        *,
        output_limit: int | None,
        most: int | None,
        breach: Callable[[], KilledBy | None],
        open_pty: Callable[[int, int], tuple[int, int]],
        vault: Vault,
        watch: SandboxWatch,
    ) -> None:
        self._channel = channel
        self._id = sandbox_id
        self._output_limit = output_limit
        self._most = most
        self._breach = breach
        self._open_pty = open_pty
        self._vault = vault
        self._watch = watch
        self._alive: dict[int, Process] = {}
        self._lingering: list[PipeSource] = []
        self._starting = 0

    def alive(self) -> list[Process]:
        """Started and not ended, oldest first."""
        return list(self._alive.values())

    def find(self, pid: int | str) -> Process:
        """The running process with this pid or tag (the newest). Raises ProcessNotFound."""
        for process in reversed(self._alive.values()):
            if pid in (process.pid, process.request.tag):
                return process
        raise ProcessNotFound(f"no running process {pid!r}", sandbox_id=self._id)

    async def start(self, request: StartRequest) -> Process:
        """Start a process; returns once its program runs. Cancelled, it leaves none behind.

        Raises:
            ProcessLimitReached: `Limits.max_processes` are alive, or all pids are used up.
            UnknownUser, FileNotFound, FileAccessDenied, InvalidArgument: as the guest found.
        """
        if self._most is not None and len(self._alive) + self._starting >= self._most:
            text = f"{self._most} commands already run, which is max_processes"
            raise ProcessLimitReached(text, sandbox_id=self._id)
        started: list[Process] = []
        self._starting += 1
        try:
            with ExitStack() as kept:
                answer = self._ask(request, kept, started)
                try:
                    await answer
                except anyio.get_cancelled_exc_class():
                    with anyio.CancelScope(shield=True), suppress(AtollError):
                        await answer  # the process it names must not be forgotten
                    raise
        except anyio.get_cancelled_exc_class():
            for process in started:
                await self.end(process)
            raise
        finally:
            self._starting -= 1
        return started[0]

    def _ask(self, request: StartRequest, kept: ExitStack, started: list[Process]) -> Answer:
        ends = self._descriptors(request)
        for fd in ends.kept:
            kept.callback(os.close, fd)
        # The answer is read elsewhere: what is logged then belongs to who asks now.
        asking = copy_context()

        def register(ok: Reply) -> None:
            pid = ok.get("pid")
            if type(pid) is not int or not 0 < pid < 1 << 31 or pid in self._alive:
                raise GuestBroken("the guest named an impossible pid", sandbox_id=self._id)
            kept.pop_all()
            started.append(asking.run(self._register, pid, request, ends))

        params = {
            "argv": list(request.argv),
            "env": request.env,
            "cwd": request.cwd,
            "user": request.user,
            "tty": request.terminal is not None,
            "mark": request.mark,
            "fds": ends.mapping,
        }
        return self._channel.request("start", params, ends.handed_in, on_ok=register)

    def _descriptors(self, request: StartRequest) -> _Ends:
        if request.terminal is not None:
            master, slave = self._open_pty(*request.terminal)
            # The guest's end may be mapped three times; the host keeps the master alone.
            return _Ends([slave], {"0": 0, "1": 0, "2": 0}, [master])
        with ExitStack() as made:

            def pipe() -> tuple[int, int]:
                pair = make_pipe()
                for fd in pair:
                    made.callback(os.close, fd)
                return pair

            out_read, out_write = pipe()
            err_read, err_write = pipe()
            if request.stdin:
                in_read, in_write = pipe()
                made.pop_all()
                ends = [out_write, err_write, in_read]
                return _Ends(ends, {"1": 0, "2": 1, "0": 2}, [out_read, err_read, in_write])
            made.pop_all()
            # Without a descriptor 0 the guest gives it the sandbox's own /dev/null.
            return _Ends([out_write, err_write], {"1": 0, "2": 1}, [out_read, err_read])

    def take_up(self, state: dict[str, Any], fds: list[int]) -> None:
        """Go on with a process that a former process of this owner started.

        What it wrote before is lost; what it has written since waits in its pipes.
        """
        terminal = state["request"].pop("terminal")
        argv = tuple(state["request"].pop("argv"))
        size = (terminal[0], terminal[1]) if terminal else None
        request = StartRequest(argv, terminal=size, **state["request"])
        self._register(state["pid"], request, _Ends([], {}, fds))

    def _register(self, pid: int, request: StartRequest, ends: _Ends) -> Process:
        self._hold(pid, request, ends.kept)
        first = "stdout" if request.terminal is None else "pty"
        output = Output(first, "stderr", self._output_limit)
        watch = self._watch.started(pid, request)
        process = Process(pid, request, output, watch, time.monotonic())
        self._alive[pid] = process
        if request.terminal is not None:
            process.stdin = PipeSink(os.dup(ends.kept[0]))
            self._listen(process, "pty", ends.kept[0])
            return process
        self._listen(process, "stdout", ends.kept[0])
        self._listen(process, "stderr", ends.kept[1])
        if request.stdin:
            process.stdin = PipeSink(ends.kept[2], lambda: self._input_ended(process, ends.kept))
        return process

    def _hold(self, pid: int, request: StartRequest, kept: list[int]) -> None:
        if self._vault.active:
            state = {"pid": pid, "request": asdict(request)}
            self._vault.hold(f"{self._id}:p{pid}", state, kept)

    def _input_ended(self, process: Process, kept: list[int]) -> None:
        """The vault's copy of the input goes too, or the process would never see its end."""
        if process.exited is not None:
            return
        if any(source.closed for source in process.sources.values()):
            self._vault.drop(f"{self._id}:p{process.pid}")
        else:
            self._hold(process.pid, replace(process.request, stdin=False), kept[:2])

    def _listen(self, process: Process, stream: str, fd: int) -> None:
        def arrived(data: bytes) -> None:
            process.watch.wrote(stream, data)
            if not process.output.add(stream, data) and process.killed_by is None:
                process.killed_by = KilledBy.OUTPUT
                for source in process.sources.values():
                    source.discard(_DISCARD)
                if process.exited is None:
                    self._kill_soon(process)

        def ended() -> None:
            if process.exited is not None and _silent(process):
                process.end(process.exited)

        process.sources[stream] = PipeSource(fd, arrived, ended)

    def exited(self, pid: int, status: int) -> bool:
        """The guest reports an exit; False if `pid` is none of these processes."""
        process = self._alive.pop(pid, None)
        if process is None:
            return False
        process.exited = status
        self._vault.drop(f"{self._id}:p{pid}")
        if status != 0 and process.killed_by is None:
            process.killed_by = _BY_SIGNAL.get(os.WTERMSIG(status)) or self._breach()
        for source in list(process.sources.values()):
            source.drain()
        if _silent(process):
            process.end(status)
        else:
            asyncio.get_running_loop().call_later(DRAIN_SECONDS, self._leave, process)
        return True

    def _kill_soon(self, process: Process) -> None:
        """SIGKILL without waiting, from where nothing can wait; its end is watched all the same."""
        self._ask_for_end(process)
        asyncio.get_running_loop().call_later(DEATH_SECONDS, self._expect_end, process)

    def _ask_for_end(self, process: Process) -> Answer:
        return self._channel.request("end", {"pid": process.pid, "mark": process.request.mark})

    def _expect_end(self, process: Process) -> None:
        if not process.done.is_set():
            text = f"process {process.pid} did not end {DEATH_SECONDS:g} s after SIGKILL"
            self._channel.fail(GuestBroken(text, sandbox_id=self._id))

    def _leave(self, process: Process) -> None:
        """End a process whose output somebody else still holds open."""
        process.end(process.exited or 0)
        self._lingering = [source for source in self._lingering if not source.closed]
        for source in process.sources.values():
            if process.request.terminal is not None:
                source.close()  # SIGHUP to whoever is left, as when a terminal closes
            elif not source.closed:
                source.discard(_DISCARD)
                self._lingering.append(source)

    async def kill(self, process: Process, number: int) -> bool:
        """Signal the group; SIGKILL is `end`. False if it had ended before."""
        if number != signals.SIGKILL:
            return await self.signal(process, number)
        running = process.exited is None
        if not process.done.is_set():
            await self.end(process)
        return running

    async def signal(self, process: Process, number: int) -> bool:
        """Send a signal to the whole process group; False if it has ended already."""
        if process.exited is not None:
            return False
        params = {"pid": process.pid, "signal": number, "group": True}
        try:
            await self._channel.request("signal", params)
        except NotFound:
            return False
        return True

    async def end(self, process: Process) -> None:
        """SIGKILL all that it has started and wait for its end; bounded, so not cancellable."""
        with anyio.CancelScope(shield=True):
            await self._ask_for_end(process)
            with anyio.move_on_after(DEATH_SECONDS):
                await process.done.wait()
        self._expect_end(process)

    async def stop(self, process: Process, why: KilledBy) -> None:
        """SIGTERM to the group, grace, then `end`; the result says `why`."""
        if process.exited is not None:
            return
        process.killed_by = process.killed_by or why
        try:
            await self.signal(process, signals.SIGTERM)
            with anyio.move_on_after(GRACE_SECONDS):
                await process.done.wait()
        finally:
            # Also when it has ended: others may have ignored SIGTERM, or never got it.
            await self.end(process)

    def close(self, reason: SandboxError, killed_by: KilledBy | None) -> None:
        """The sandbox is gone: every process ends, by `killed_by` or with the error `reason`."""
        alive, self._alive = self._alive, {}
        for process in alive.values():
            for source in process.sources.values():
                source.drain()
                source.close()
            process.killed_by = process.killed_by or killed_by
            process.end(signals.SIGKILL, None if killed_by else reason)
        for source in self._lingering:
            source.close()
