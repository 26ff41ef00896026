"""Frames on an owner's socket: one byte that says what, four of length, then the payload.

Both ends are programs of the same user; lengths are bounded all the same.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import socket
import struct
from typing import Any

from atoll.model import AtollError, OwnerError, TimedOut, errors

REQUEST = b"r"
"""JSON: a request, or its answer."""
ERROR = b"E"
"""JSON: code, message, sandbox_id, hint."""
RESULT = b"x"
"""JSON: how it ended. The last frame."""
INPUT, INPUT_END = b"i", b"e"
SIGNAL, STOP, RESIZE = b"s", b"k", b"w"
STREAMS = {"stdout": b"1", "stderr": b"2", "pty": b"3"}

_HEADER = struct.Struct("!cI")
_LARGEST = 4 << 20
_SEND_SECONDS = 300.0
_FINISH_SECONDS = 10.0
_DISCARD = 1 << 16


class Connection:
    """One end of a connection; made in the task that uses it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def of(cls, sock: socket.socket) -> Connection:
        """Take over a connected socket."""
        return cls(*await asyncio.open_connection(sock=sock))

    async def send(self, kind: bytes, payload: bytes = b"") -> None:
        """Send a frame; waits while the other end does not read.

        Raises:
            OSError: it is gone. TimedOut: it does not read.
        """
        self._writer.write(_HEADER.pack(kind, len(payload)) + payload)
        try:
            async with asyncio.timeout(_SEND_SECONDS):
                await self._writer.drain()
        except TimeoutError:
            raise TimedOut(f"the other end has not read for {_SEND_SECONDS:g} s") from None

    async def send_object(self, kind: bytes, value: Any) -> None:
        """Send a frame of JSON."""
        await self.send(kind, json.dumps(value, default=_plain).encode())

    async def receive(self) -> tuple[bytes, bytes] | None:
        """The next frame; None at the end. Raises OwnerError (a frame too large)."""
        try:
            kind, size = _HEADER.unpack(await self._reader.readexactly(_HEADER.size))
            if size > _LARGEST:
                raise OwnerError(f"a frame of {size} bytes came; {_LARGEST} are the most")
            return kind, await self._reader.readexactly(size)
        except (asyncio.IncompleteReadError, ConnectionError):
            return None

    async def finish(self) -> None:
        """Say that nothing more comes, and wait a while until the other end has closed.

        A close while the other end still sends would make it lose what it has not read yet.
        """
        try:
            self._writer.write_eof()
            async with asyncio.timeout(_FINISH_SECONDS):
                while await self._reader.read(_DISCARD):
                    continue
        except (TimeoutError, OSError):
            return  # it does not listen any more, or will not end

    def close(self) -> None:
        """Close it; what was sent still goes out."""
        self._writer.close()


def error_object(error: AtollError) -> dict[str, Any]:
    """An error as the other end rebuilds it."""
    return {
        "code": error.code,
        "message": error.message,
        "sandbox_id": error.sandbox_id,
        "hint": error.hint,
    }


def error_of(value: dict[str, Any]) -> AtollError:
    """The error that an owner sent."""
    kind = _by_code(errors.AtollError).get(value["code"], AtollError)
    return kind(value["message"], sandbox_id=value["sandbox_id"], hint=value["hint"])


def _by_code(root: type[AtollError]) -> dict[str, type[AtollError]]:
    found = {root.code: root}
    for kind in root.__subclasses__():
        found.update(_by_code(kind))
    return found


def _plain(value: object) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    raise TypeError(f"{type(value).__name__} does not go into a frame")
