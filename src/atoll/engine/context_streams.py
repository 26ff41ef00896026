"""The three descriptors of a context: control socket, stdout and stderr, on the event loop.

The readers stay registered for the context's life, because adding and removing them for every
cell would cost more than a cell. Between cells what arrives is kept, within a bound.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import socket

from atoll.engine.context_frames import Event, FrameReader, Ready
from atoll.model import GuestBroken

_CHUNK = 65536
_CONTROL_CHUNK = 1 << 20
_CHUNKS_A_TURN = 16
_KEPT_BETWEEN_CELLS = 65536
_F_GETPIPE_SZ = 1032

Output = tuple[str, bytes]
"""Stream name and what was read from it."""


class ContextStreams:
    """Non-blocking reads and bounded waits. It owns the descriptors.

    Attributes:
        ended: the context has closed its control socket, or we have.
    """

    def __init__(self, control: socket.socket, stdout_fd: int, stderr_fd: int) -> None:
        self.ended = False
        self._loop = asyncio.get_running_loop()
        self._control = control
        self._pipes = {"stdout": stdout_fd, "stderr": stderr_fd}
        self._frames = FrameReader()
        self._waiter: asyncio.Future[None] | None = None
        self._writable: asyncio.Future[None] | None = None
        self._in_cell = False
        self._paused = True
        self._kept: list[Output] = []
        self._early: list[Event] = []
        self._broken: GuestBroken | None = None
        control.setblocking(False)
        for fd in (stdout_fd, stderr_fd):
            os.set_blocking(fd, False)
        self._resume()

    def begin_cell(self) -> list[Output]:
        """From here what arrives belongs to a cell. Returns what arrived since the last one."""
        self._in_cell = True
        kept, self._kept = self._kept, []
        return kept

    def end_cell(self) -> None:
        """From here what arrives is kept for the next cell."""
        self._in_cell = False
        if self._paused and not self.ended:
            self._resume()

    async def wait(self, deadline: float | None) -> None:
        """Until something can be read, the context has ended, or the loop's time is `deadline`."""
        if self.ended:
            return
        if self._paused:
            self._resume()
        self._waiter = self._loop.create_future()
        timer = None if deadline is None else self._loop.call_at(deadline, self._wake)
        try:
            await self._waiter
        finally:
            self._waiter = None
            if timer is not None:
                timer.cancel()

    async def send(self, frame: bytes, deadline: float | None) -> bool:
        """Write a frame; False if the context has ended or did not take it in time."""
        rest = memoryview(frame)
        while rest and not self.ended:
            try:
                rest = rest[self._control.send(rest) :]
            except BlockingIOError:
                if deadline is not None and self._loop.time() >= deadline:
                    return False
                await self._wait_writable(deadline)
            except OSError:
                # Its end shows when it is read, after what it has sent before.
                return False
        return not self.ended

    def receive(self) -> list[Event]:
        """The events that have arrived. Raises GuestBroken."""
        if self._broken is not None:
            raise self._broken
        early, self._early = self._early, []
        data = self._receive_some()
        return early + self._frames.feed(data) if data else early

    def read_output(self) -> list[Output]:
        """Some of the output that has arrived; empty if there is none."""
        return [
            (name, data)
            for name in tuple(self._pipes)
            for data in self._read_pipe(name, _CHUNKS_A_TURN * _CHUNK)
        ]

    def read_last_output(self) -> list[Output]:
        """All that was in the pipes when the cell ended, whoever goes on writing to them."""
        return [
            (name, data)
            for name, fd in tuple(self._pipes.items())
            for data in self._read_pipe(name, fcntl.fcntl(fd, _F_GETPIPE_SZ))
        ]

    def close(self) -> None:
        """Close the descriptors. May be called twice."""
        self.ended = True
        self._pause()
        self._wake()
        if self._writable is not None:
            self._loop.remove_writer(self._control)
            _resolve(self._writable)
        self._control.close()
        for fd in self._pipes.values():
            os.close(fd)
        self._pipes.clear()

    def _receive_some(self) -> bytes:
        if self.ended:
            return b""
        try:
            data = self._control.recv(_CONTROL_CHUNK)
        except BlockingIOError:
            return b""
        except OSError:
            data = b""
        if not data:
            self.ended = True
            self._loop.remove_reader(self._control)
        return data

    def _read_pipe(self, name: str, most: int) -> list[bytes]:
        pieces = []
        while most > 0 and name in self._pipes:
            fd = self._pipes[name]
            try:
                data = os.read(fd, min(_CHUNK, most))
            except BlockingIOError:
                break
            if not data:
                self._loop.remove_reader(fd)
                os.close(self._pipes.pop(name))
                break
            pieces.append(data)
            most -= len(data)
            if len(data) < _CHUNK:
                break
        return pieces

    def _on_readable(self) -> None:
        if self._waiter is not None:
            self._wake()
        elif self._in_cell:
            # The cell's callback is at work: without this the loop would spin.
            self._pause()
        else:
            self._read_between_cells()

    def _read_between_cells(self) -> None:
        self._kept += self.read_output()
        size = sum(len(data) for _, data in self._kept)
        while size > _KEPT_BETWEEN_CELLS and len(self._kept) > 1:
            size -= len(self._kept.pop(0)[1])
        try:
            self._early += self._frames.feed(self._receive_some())
            # That it is ready is all that a context may say unasked.
            if len(self._early) > 1 or not all(isinstance(event, Ready) for event in self._early):
                raise GuestBroken("a context sent an event although no cell was running")
        except GuestBroken as error:
            self._broken = error
            self._loop.remove_reader(self._control)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _resume(self) -> None:
        self._paused = False
        for fd in self._descriptors():
            self._loop.add_reader(fd, self._on_readable)

    def _pause(self) -> None:
        self._paused = True
        for fd in self._descriptors():
            self._loop.remove_reader(fd)

    def _descriptors(self) -> list[int]:
        control = [] if self._control.fileno() < 0 else [self._control.fileno()]
        return control + list(self._pipes.values())

    async def _wait_writable(self, deadline: float | None) -> None:
        writable = self._writable = self._loop.create_future()
        self._loop.add_writer(self._control, _resolve, writable)
        try:
            remaining = None if deadline is None else max(0.0, deadline - self._loop.time())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(remaining):
                    await writable
        finally:
            self._writable = None
            if not self.ended:
                self._loop.remove_writer(self._control)


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
