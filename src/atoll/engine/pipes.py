"""Host-made pipes, read and written on the event loop. Each object owns its descriptor."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
from collections import deque
from collections.abc import Callable

import anyio

from atoll.model import TimedOut

LARGE_PIPE = 1 << 20
"""Bytes a busy pipe is grown to (fs.pipe-max-size allows this to ordinary users)."""

_SMALL_READ = 1 << 16
_TURN = 1 << 20  # bytes read before the loop's other work gets its turn
_DRAIN = 4 << 20


def make_pipe() -> tuple[int, int]:
    """Read and write end, both close-on-exec; set non-blocking the end that the host keeps.

    O_NONBLOCK belongs to an end, not to the pipe: what the sandbox does to its end (walls.md 17)
    does not reach the host's.
    """
    return os.pipe2(os.O_CLOEXEC)


def grow(fd: int) -> bool:
    """Make a pipe large; False where the kernel says no (too many large pipes of this user)."""
    try:
        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, LARGE_PIPE)
    except OSError:
        return False
    return True


class PipeSource:
    """Reads a pipe or terminal as it fills.

    Args:
        fd: read end; owned from now on.
        on_data: called with each piece.
        on_end: called once at end of file, not after `close`.
    """

    def __init__(
        self, fd: int, on_data: Callable[[bytes], None], on_end: Callable[[], None]
    ) -> None:
        os.set_blocking(fd, False)
        self._fd = fd
        self._on_data = on_data
        self._on_end = on_end
        self._size = _SMALL_READ
        self._discard: int | None = None
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(fd, self._read, _TURN)

    @property
    def closed(self) -> bool:
        """True after end of file or `close`."""
        return self._fd < 0

    def fileno(self) -> int:
        """Its descriptor, for what only a terminal can do."""
        return self._fd

    def drain(self) -> None:
        """Read what is there now, so that all a process wrote before its end is seen."""
        self._read(_DRAIN)

    def discard(self, most: int) -> None:
        """From now on throw away what arrives, up to `most` bytes; then close.

        For processes that outlive their command: their writes succeed, and cost nobody memory.
        """
        self._discard = most

    def close(self) -> None:
        """Stop reading; the writer gets EPIPE. May be called twice."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            self._loop.remove_reader(fd)
            os.close(fd)

    def _read(self, most: int) -> None:
        while most > 0 and self._fd >= 0:
            try:
                data = os.read(self._fd, self._size)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno != errno.EIO:  # EIO: every slave of a terminal is closed
                    raise
                data = b""
            if not data:
                self.close()
                self._on_end()
                return
            most -= len(data)
            if len(data) == _SMALL_READ == self._size and grow(self._fd):
                self._size = LARGE_PIPE
            self._deliver(data)
            if len(data) < self._size:
                return

    def _deliver(self, data: bytes) -> None:
        if self._discard is None:
            self._on_data(data)
            return
        self._discard -= len(data)
        if self._discard < 0:
            self.close()


class PipeSink:
    """Writes a pipe or terminal as it empties.

    Args:
        fd: write end; owned from now on.
        on_close: called once it is closed: whoever keeps a copy must close that too, or the reader
            never sees the end.
    """

    def __init__(self, fd: int, on_close: Callable[[], None] | None = None) -> None:
        os.set_blocking(fd, False)
        self._fd = fd
        self._on_close = on_close
        self._waiting: deque[memoryview] = deque()
        self._closing = False
        self._moved = anyio.Event()
        self._loop = asyncio.get_running_loop()

    @property
    def closed(self) -> bool:
        """True when nothing more can be written."""
        return self._fd < 0 or self._closing

    def write(self, data: bytes) -> None:
        """Take `data`, write what fits now and the rest as the reader reads."""
        if self.closed or not data:
            return
        self._waiting.append(memoryview(data))
        if len(self._waiting) == 1:
            self._write()

    async def drained(self, timeout: float) -> bool:
        """Wait until all is written; False if the reader went away first.

        Raises:
            TimedOut: the reader did not read in time.
        """
        with anyio.move_on_after(timeout):
            while self._waiting and self._fd >= 0:
                await self._moved.wait()
        if self._waiting and self._fd >= 0:
            raise TimedOut(f"the process did not read its input in {timeout:g} s")
        return not self._waiting

    def finish(self) -> None:
        """Close after everything taken so far is written: the reader then sees end of file."""
        self._closing = True
        if not self._waiting:
            self.close()

    def close(self) -> None:
        """Close now. May be called twice."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            self._loop.remove_writer(fd)
            os.close(fd)
            self._wake()
            if self._on_close is not None:
                self._on_close()

    def _wake(self) -> None:
        moved, self._moved = self._moved, anyio.Event()
        moved.set()

    def _write(self) -> None:
        while self._waiting:
            piece = self._waiting[0]
            try:
                count = os.write(self._fd, piece)
            except (BlockingIOError, InterruptedError):
                self._loop.add_writer(self._fd, self._write)
                return
            except OSError:
                self.close()  # EPIPE or EIO: the reader is gone, as it may
                return
            if count == len(piece):
                self._waiting.popleft()
            else:
                self._waiting[0] = piece[count:]
        self._loop.remove_writer(self._fd)
        self._wake()
        if self._closing:
            self.close()
