"""Non-blocking sockets as byte streams, for what has to be read rather than spliced."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import anyio
from anyio.abc import ByteStream

from atoll.egress.meter import Tally, Way


async def receive(sock: socket.socket, count: int) -> bytes:
    """Up to `count` bytes; empty at the end."""
    while True:
        try:
            return sock.recv(count)
        except BlockingIOError:
            await anyio.wait_readable(sock)


async def send_all(sock: socket.socket, data: bytes) -> None:
    """Send all of `data`."""
    view = memoryview(data)
    while view:
        try:
            view = view[sock.send(view) :]
        except BlockingIOError:
            await anyio.wait_writable(sock)


def reset(sock: socket.socket) -> None:
    """Close with a reset: the peer learns that this was no ordinary end."""
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    sock.close()


class SocketByteStream(ByteStream):
    """A socket that somebody else closes, with bytes that were read from it before in front."""

    def __init__(self, sock: socket.socket, already_read: bytes = b"") -> None:
        self._sock = sock
        self._already_read = already_read

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """The next bytes. Raises EndOfStream, BrokenResourceError."""
        if self._already_read:
            data, self._already_read = (
                self._already_read[:max_bytes],
                self._already_read[max_bytes:],
            )
            return data
        try:
            data = await receive(self._sock, max_bytes)
        except OSError as error:
            raise anyio.BrokenResourceError from error
        if not data:
            raise anyio.EndOfStream
        return data

    async def send(self, item: bytes) -> None:
        """Send all of `item`. Raises BrokenResourceError."""
        try:
            await send_all(self._sock, item)
        except OSError as error:
            raise anyio.BrokenResourceError from error

    async def send_eof(self) -> None:
        """Tell the peer that no more comes."""
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)

    async def aclose(self) -> None:
        """Nothing: the socket's owner closes it."""

    @property
    def extra_attributes(self) -> Mapping[Any, Any]:
        """None."""
        return {}


async def pump(source: ByteStream, sink: ByteStream, way: Way, tally: Tally) -> None:
    """Move all bytes of `source` to `sink`, then its end. Raises BrokenResourceError."""
    while True:
        try:
            data = await source.receive(min(65536, tally.chunk))
        except anyio.EndOfStream:
            break
        await sink.send(data)
        await tally.spend(len(data), way)
    with suppress(NotImplementedError, anyio.BrokenResourceError):  # TLS has no half end here
        await sink.send_eof()
