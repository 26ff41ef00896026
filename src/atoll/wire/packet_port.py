"""The host's end of a packet socket: requests with numbers, replies as futures."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
from collections.abc import Sequence
from typing import Any

from atoll.wire import packets

Reply = tuple[dict[str, Any], list[int]]


class PortClosed(OSError):
    """The process at the other end is gone."""


class PacketPort:
    """Sends numbered requests to one trusted process and matches its replies.

    A reply whose request was cancelled is dropped and its descriptors are closed.
    """

    def __init__(self, sock: socket.socket, name: str) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._name = name
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Reply]] = {}
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(sock.fileno(), self._readable)
        self._open = True

    @property
    def closed(self) -> bool:
        """True once the process at the other end is gone, or `close` was called."""
        return not self._open

    def post(self, packet: packets.Packet, fds: Sequence[int] = ()) -> None:
        """Send `packet`, to which no reply is sent."""
        packets.send(self._sock, packet, list(fds))

    def request(
        self, packet: packets.Packet, fds: Sequence[int] = (), *, number: int | None = None
    ) -> asyncio.Future[Reply]:
        """Send `packet` with the next number; the future gives the reply and its descriptors.

        A reply without a number answers number 0, which is never given by counting.
        """
        number = next(self._numbers) if number is None else number
        future: asyncio.Future[Reply] = self._loop.create_future()
        if not self._open:
            future.set_exception(PortClosed(f"the {self._name} is gone"))
            return future
        self._waiting[number] = future
        try:
            packets.send(self._sock, packet | {"n": number}, list(fds))
        except OSError:
            self.close()  # fails this request with the others
        return future

    def _readable(self) -> None:
        try:
            packet, fds = packets.receive(self._sock)
        except BlockingIOError:
            return
        except (OSError, ValueError):
            packet, fds = None, []
        if packet is None:
            self.close()
            return
        future = self._waiting.pop(packet.get("n", 0), None)
        if future is None or future.done():
            for fd in fds:
                os.close(fd)
        elif "error" in packet:
            future.set_exception(OSError(packet["error"]))
        else:
            future.set_result((packet, fds))

    def close(self) -> None:
        """Close the socket; every waiting request fails with PortClosed."""
        if not self._open:
            return
        self._open = False
        self._loop.remove_reader(self._sock.fileno())
        self._sock.close()
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(PortClosed(f"the {self._name} is gone"))
        self._waiting.clear()
