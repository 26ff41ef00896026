"""The host's side of a context: one cell at a time, every wait bounded, every frame distrusted."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.lowlevel

from atoll.engine.cell import Cell, CellCallbacks
from atoll.engine.context_frames import Done, ErrorEvent, Ready, ResultEvent, encode
from atoll.engine.context_streams import ContextStreams
from atoll.model import (
    ContextDied,
    Execution,
    ExecutionError,
    GuestBroken,
    InvalidArgument,
    KilledBy,
    TimedOut,
)

Interrupt = Callable[[], Awaitable[None]]
"""Sends SIGINT to the context's process group, by way of the guest."""

_REPEAT_INTERRUPT = 1.0
_BEGIN_SECONDS = 0.1
"""From a context's word that it is ready to its first cell: far more than that takes."""
_LONGEST_CODE = 32 * 1024 * 1024


class ContextEnded(ContextDied):
    """The context's process ended while a cell ran.

    Attributes:
        execution: what the cell had done until then.
    """

    def __init__(self, message: str, execution: Execution) -> None:
        super().__init__(message, hint="restart the context or make another")
        self.execution = execution


class ContextClient:
    """Runs cells in one context. Belongs to the event loop in which it was made.

    Attributes:
        must_kill: a cell did not end when it was interrupted: the owner has to kill the process.
        pid: the context's pid inside the sandbox, once it has said that it is ready.
    """

    def __init__(
        self,
        control: socket.socket,
        stdout_fd: int,
        stderr_fd: int,
        *,
        interrupt: Interrupt,
        output_limit: int | None = 64 << 20,
        grace: float = 5.0,
    ) -> None:
        """Take over the host's ends of a context's descriptors.

        Args:
            control: control socket (stream).
            stdout_fd: read end of its stdout.
            stderr_fd: read end of its stderr.
            interrupt: sends it SIGINT.
            output_limit: bytes of stdout and stderr of one cell.
            grace: seconds that an interrupted cell has to end.
        """
        self.must_kill = False
        self.pid: int | None = None
        self._streams = ContextStreams(control, stdout_fd, stderr_fd)
        self._loop = asyncio.get_running_loop()
        self._interrupt = interrupt
        self._output_limit = output_limit
        self._grace = grace
        self._turn = anyio.Lock(fast_acquire=True)
        self._cells = 0
        self._running = False
        self._interrupted = False
        self._started = anyio.Event()

    @property
    def alive(self) -> bool:
        """False once no further cell can run."""
        return not self._streams.ended and not self.must_kill

    async def ready(self, timeout: float = 30.0) -> int:
        """Wait until the context takes cells; its pid inside. `run` does not need it.

        Raises:
            ContextDied: it ended before.
            TimedOut: it was not ready in time.
            GuestBroken: it spoke something else.
        """
        deadline = self._loop.time() + timeout
        async with self._turn:
            self._streams.begin_cell()
            try:
                while self.pid is None:
                    for event in self._streams.receive():
                        self._take_ready(event)
                    if self.pid is None and self._streams.ended:
                        raise ContextDied("a context ended before it was ready")
                    if self.pid is None and self._loop.time() >= deadline:
                        raise TimedOut(f"a context was not ready after {timeout:g} seconds")
                    if self.pid is None:
                        await self._streams.wait(deadline)
            finally:
                self._streams.end_cell()
        return self.pid

    async def run(
        self,
        code: str,
        *,
        callbacks: CellCallbacks | None = None,
        env: dict[str, str] | None = None,
        cwd: str | None = None,
        silent: bool = False,
        timeout: float | None = 300.0,
    ) -> Execution:
        """Run one cell, after those that were asked for before it.

        Args:
            code: the cell.
            callbacks: told what happens while it runs.
            env: environment variables for this cell alone.
            cwd: directory for this cell alone.
            silent: no value, and not counted.
            timeout: seconds until it is interrupted; then `killed_by` is WALL. A cell that
                writes more than the output limit is interrupted too: OUTPUT. If it does not end
                within the grace, `must_kill` is set.

        Raises:
            ContextEnded: the process ended meanwhile.
            ContextDied: there is no process any more.
            GuestBroken: the context broke the protocol.
            InvalidArgument: code, env or cwd can never be sent.
        """
        request = _request(code, env, cwd, silent)
        async with self._turn:
            if not self.alive:
                raise ContextDied("the context has ended", hint="restart it or make another")
            self._cells += 1
            request["id"] = self._cells
            if self._interrupted:
                request["late"] = True
                self._interrupted = False
            cell = Cell(callbacks or CellCallbacks(), self._output_limit)
            return await self._run(encode(request), cell, timeout)

    async def interrupt(self) -> None:
        """Interrupt the running cell, if any; the context lives on."""
        if self._running and self.pid is None:
            # A context that is still starting would be ended by the signal.
            await self._started.wait()
            await anyio.sleep(_BEGIN_SECONDS)
        if self._running:
            await self._send_interrupt()

    async def _send_interrupt(self) -> None:
        self._interrupted = True
        await self._interrupt()

    async def close(self) -> None:
        """Let go of the context: it ends by itself, a running cell raises ContextEnded."""
        if not self._streams.ended:
            with anyio.CancelScope(shield=True):
                await self._streams.send(encode({"op": "shutdown"}), self._loop.time())
        self._streams.close()

    async def _run(self, frame: bytes, cell: Cell, timeout: float | None) -> Execution:
        start = self._loop.time()
        deadline = None if timeout is None else start + timeout
        killed_by: KilledBy | None = None
        kept = self._streams.begin_cell()
        self._running = True
        try:
            for stream, data in kept:
                await cell.take_output(stream, data)
            await self._streams.send(frame, deadline)
            count = await self._follow(cell, deadline)
            if count is None and not self._streams.ended:
                killed_by = KilledBy.OUTPUT if cell.over_limit else KilledBy.WALL
                count = await self._stop(cell)
                await cell.fail(_why(killed_by, timeout, self._output_limit, cell.error, count))
            await cell.finish()
        except GuestBroken:
            self.must_kill = True
            raise
        except BaseException:
            # Cancelled, or a callback raised: nobody waits for this cell any more.
            with anyio.CancelScope(shield=True):
                await self._stop(Cell(CellCallbacks(), 0))
            raise
        finally:
            self._running = False
            self._started.set()
            self._streams.end_cell()
        execution = cell.execution(count, killed_by, self._loop.time() - start)
        if self._streams.ended and count is None:
            raise ContextEnded("the context ended while a cell ran", execution)
        return execution

    async def _follow(
        self, cell: Cell, deadline: float | None, *, heed_limit: bool = True
    ) -> int | None:
        """Gather until the cell is done; None if time, output or the context ended before."""
        while True:
            events = self._streams.receive()
            # The context flushes before each event: what it printed first is in the pipes by now.
            if not events or isinstance(events[-1], Done) or self._streams.ended:
                output = self._streams.read_last_output()
            else:
                output = self._streams.read_output()
            for stream, data in output:
                await cell.take_output(stream, data)
            for event in events:
                count = await self._take(cell, event)
                if count is not None:
                    return count
            if self._streams.ended or (cell.over_limit and heed_limit):
                return None
            if deadline is not None and self._loop.time() >= deadline:
                return None
            if events or output:
                # A cell that never stops writing must not keep the loop from everybody else.
                await anyio.lowlevel.checkpoint()
            else:
                await self._streams.wait(deadline)

    async def _stop(self, cell: Cell) -> int | None:
        """Interrupt, again and again, until the cell ends or the grace is over."""
        end = self._loop.time() + self._grace
        while not self._streams.ended:
            pause = _BEGIN_SECONDS
            if self.pid is not None:
                pause = _REPEAT_INTERRUPT
                with contextlib.suppress(Exception):
                    await self._send_interrupt()
            again = min(end, self._loop.time() + pause)
            count = await self._follow(cell, again, heed_limit=False)
            if count is not None:
                return count
            if self._loop.time() >= end:
                break
        self.must_kill = True
        return None

    async def _take(self, cell: Cell, event: Any) -> int | None:
        """Act on one event; the count that ends the cell."""
        if isinstance(event, Ready):
            self._take_ready(event)
            return None
        if event.cell != self._cells:
            raise GuestBroken(f"a context answered for cell {event.cell} in cell {self._cells}")
        if isinstance(event, Done):
            return event.count
        if isinstance(event, ResultEvent | ErrorEvent):
            await cell.take_event(event)
        return None

    def _take_ready(self, event: Any) -> None:
        if not isinstance(event, Ready) or self.pid is not None:
            self.must_kill = True
            raise GuestBroken("a context did not say ready once, and first")
        self.pid = event.pid
        self._started.set()


def _request(
    code: str, env: dict[str, str] | None, cwd: str | None, silent: bool
) -> dict[str, Any]:
    if not isinstance(code, str):
        raise InvalidArgument(f"the code of a cell must be text, not {type(code).__name__}")
    if len(code) > _LONGEST_CODE:
        raise InvalidArgument(f"the cell has {len(code)} characters, more than {_LONGEST_CODE}")
    for name, value in (env or {}).items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise InvalidArgument(f"environment variable {name!r} must be text with a text value")
        if not name or "=" in name or "\0" in name + value:
            raise InvalidArgument(f"environment variable {name!r} cannot be set")
    request: dict[str, Any] = {"op": "run", "code": code}
    if env:
        request["env"] = env
    if cwd is not None:
        if not cwd or "\0" in cwd:
            raise InvalidArgument(f"{cwd!r} is not a directory's path")
        request["cwd"] = cwd
    if silent:
        request["silent"] = True
    return request


def _why(
    killed_by: KilledBy,
    timeout: float | None,
    output_limit: int | None,
    said: ExecutionError | None,
    count: int | None,
) -> ExecutionError:
    """The error of a cell that was stopped, with the line at which the context says it was."""
    if killed_by is KilledBy.WALL:
        name, cause = "TimedOut", f"the cell ran longer than {timeout:g} seconds"
    else:
        name, cause = "OutputLimitReached", f"the cell wrote more than {output_limit} bytes"
    if count is None:
        value = f"{cause}, ignored the interrupt and was killed with its context"
    else:
        value = f"{cause} and was interrupted; the context is still usable"
    trace = said.traceback if said else f"{name}: {value}"
    return ExecutionError(name, value, trace, said.frames if said else ())
