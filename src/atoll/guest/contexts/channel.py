"""The control socket of a context: frames of a 4-byte big-endian length and one JSON object.

Host to context: ``run`` and ``shutdown``. Context to host: ``ready``, ``result``, ``error``,
``done``. A frame is at most `FRAME_LIMIT` bytes; what would be larger is never sent in part.
"""

from __future__ import annotations

import json
import os
import struct
from _thread import RLock  # not from threading, whose hooks slow every fork of the guest down

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

FRAME_LIMIT = 32 * 1024 * 1024
"""Largest frame either side sends or accepts, without its 4 length bytes."""

_CHUNK = 65536


class FrameTooLarge(ValueError):
    """An event that does not fit into one frame; nothing of it was sent."""

    def __init__(self, size: int) -> None:
        super().__init__(f"{size} bytes do not fit into one frame of {FRAME_LIMIT} bytes")
        self.size = size


def encode(event: dict[str, Any]) -> bytes:
    """One frame. Raises FrameTooLarge, or TypeError or ValueError for what JSON cannot hold."""
    body = json.dumps(event, separators=(",", ":"), allow_nan=False).encode("ascii")
    if len(body) > FRAME_LIMIT:
        raise FrameTooLarge(len(body))
    return struct.pack("!I", len(body)) + body


class Channel:
    """Reads and writes frames on a blocking descriptor; writing is safe from any thread.

    Args:
        fd: read from, and written to unless there is
        write_fd: another descriptor for that.
    """

    def __init__(self, fd: int, write_fd: int | None = None) -> None:
        self._fd = fd
        self._write_fd = fd if write_fd is None else write_fd
        self._received = bytearray()
        self._posted = bytearray()
        self._lock = RLock()

    def fileno(self) -> int:
        """The descriptor, for select and event loops."""
        return self._fd

    def has_frame(self) -> bool:
        """True if `receive` would return without reading from the socket."""
        size = self._frame_size()
        return size is not None and len(self._received) >= 4 + size

    def receive(self) -> dict[str, Any] | None:
        """The next frame; None when the host has closed the socket."""
        while True:
            size = self._frame_size()
            if size is not None and len(self._received) >= 4 + size:
                body = bytes(self._received[4 : 4 + size])
                del self._received[: 4 + size]
                frame: dict[str, Any] = json.loads(body)
                return frame
            data = os.read(self._fd, _CHUNK)
            if not data:
                return None
            self._received += data

    def post(self, frame: bytes) -> None:
        """Keep an encoded frame for the next `flush`, so that several take one system call."""
        with self._lock:
            self._posted += frame

    def flush(self) -> None:
        """Write what was posted."""
        with self._lock:
            view = memoryview(bytes(self._posted))
            self._posted.clear()
            while view:
                view = view[os.write(self._write_fd, view) :]

    def _frame_size(self) -> int | None:
        if len(self._received) < 4:
            return None
        return int.from_bytes(self._received[:4], "big")
