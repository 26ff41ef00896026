"""Moves bytes between two sockets without looking at them: splice(2) through a pipe."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import anyio
import anyio.lowlevel

from atoll.egress.meter import Tally, Way

_PIPE_BYTES = 1 << 18
_FLAGS = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK
_CHUNKS_A_TURN = 8


class Pipes:
    """Pipes that bytes pass through. A connection has one only while bytes are under way.

    So a thousand idle connections take no pipe, and the kernel's bound on the pipe memory of one
    user (fs.pipe-user-pages-soft) is met by busy ones alone.
    """

    def __init__(self, keep: int = 64) -> None:
        self._keep = keep
        self._free: list[tuple[int, int]] = []

    def take(self) -> tuple[int, int]:
        """An empty pipe: read end, write end."""
        if self._free:
            return self._free.pop()
        pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        # Past the user's bound the kernel refuses, and a small pipe does as well.
        with suppress(OSError):
            fcntl.fcntl(pipe[1], fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        return pipe

    def give_back(self, pipe: tuple[int, int], *, empty: bool) -> None:
        """Let go of a pipe; one with bytes in it is closed."""
        if empty and len(self._free) < self._keep:
            self._free.append(pipe)
            return
        os.close(pipe[0])
        os.close(pipe[1])

    def close(self) -> None:
        """Close those that are kept."""
        while self._free:
            self.give_back(self._free.pop(), empty=False)


class _Passage:
    """A pipe for a burst of bytes, and how many are in it."""

    def __init__(self, pipe: tuple[int, int]) -> None:
        self.pipe = pipe
        self.inside = 0

    def fill(self, source: socket.socket, count: int) -> int:
        """Bytes taken from `source`; 0 at its end."""
        self.inside = os.splice(source.fileno(), self.pipe[1], count, flags=_FLAGS)
        return self.inside

    async def empty(self, sink: socket.socket) -> None:
        """Put all that is inside into `sink`."""
        while self.inside:
            try:
                moved = os.splice(self.pipe[0], sink.fileno(), self.inside, flags=_FLAGS)
                self.inside -= moved
            except BlockingIOError:
                await anyio.wait_writable(sink)


@contextmanager
def _passage(pipes: Pipes) -> Iterator[_Passage]:
    passage = _Passage(pipes.take())
    try:
        yield passage
    finally:
        pipes.give_back(passage.pipe, empty=not passage.inside)


async def move(
    source: socket.socket, sink: socket.socket, way: Way, tally: Tally, pipes: Pipes
) -> None:
    """Move all bytes of `source` to `sink`, then its end. Raises OSError if either breaks."""
    while True:
        await anyio.wait_readable(source)
        if await _burst(source, sink, way, tally, pipes):
            break
    with suppress(OSError):  # the other way has ended it already
        sink.shutdown(socket.SHUT_WR)


async def _burst(
    source: socket.socket, sink: socket.socket, way: Way, tally: Tally, pipes: Pipes
) -> bool:
    """Move what is there now; True at the end of `source`."""
    with _passage(pipes) as passage:
        turn = 0
        while True:
            try:
                count = passage.fill(source, tally.chunk)
            except BlockingIOError:
                return False
            if not count:
                return True
            await passage.empty(sink)
            if delay := tally.debt(count, way):
                await anyio.sleep(delay)
            turn += 1
            if turn % _CHUNKS_A_TURN == 0:
                # One who is never blocked must not keep the others waiting.
                await anyio.lowlevel.checkpoint()


async def splice(client: socket.socket, server: socket.socket, tally: Tally, pipes: Pipes) -> None:
    """Connect the two until both have ended. Raises OSError if one breaks."""
    async with anyio.create_task_group() as ways:
        ways.start_soon(move, server, client, "in", tally, pipes)
        ways.start_soon(move, client, server, "out", tally, pipes)
