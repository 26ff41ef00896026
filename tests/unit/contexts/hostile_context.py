"""A context that a test plays itself: it says what the test wants, right or wrong."""

from __future__ import annotations

import json
import os
import socket
import struct
from typing import Any

import anyio

from atoll.engine.contexts import ContextClient


class Played:
    """Both ends of a context; the client's grace is short unless the test says otherwise."""

    def __init__(self, output_limit: int | None = 1 << 20, grace: float = 0.1) -> None:
        control, self.control = socket.socketpair()
        out, self.stdout = os.pipe()
        err, self.stderr = os.pipe()
        self.interrupts = 0
        self.interrupted = anyio.Event()
        self.client = ContextClient(
            control,
            out,
            err,
            interrupt=self._interrupt,
            output_limit=output_limit,
            grace=grace,
        )

    async def _interrupt(self) -> None:
        self.interrupts += 1
        self.interrupted.set()

    def say(self, *events: dict[str, Any]) -> None:
        """Send events as frames."""
        for event in events:
            self.send(json.dumps(event).encode())

    def send(self, body: bytes) -> None:
        """Send one frame of any content."""
        self.control.sendall(struct.pack("!I", len(body)) + body)

    def heard(self) -> dict[str, Any]:
        """The next request of the host."""
        (size,) = struct.unpack("!I", self.control.recv(4, socket.MSG_WAITALL))
        request: dict[str, Any] = json.loads(self.control.recv(size, socket.MSG_WAITALL))
        return request

    async def close(self) -> None:
        """Both ends."""
        await self.client.close()
        self.control.close()
        for fd in (self.stdout, self.stderr):
            os.close(fd)


READY: dict[str, Any] = {"event": "ready", "pid": 7}


def result(cell: int, text: str = "x", main: bool = True) -> dict[str, Any]:
    """A result event."""
    return {"event": "result", "id": cell, "data": {"text/plain": text}, "main": main}


def error(cell: int, **changes: Any) -> dict[str, Any]:
    """An error event."""
    event = {"event": "error", "id": cell, "name": "E", "value": "v", "traceback": "t"}
    return {**event, "frames": [], **changes}


def done(cell: int) -> dict[str, Any]:
    """A done event."""
    return {"event": "done", "id": cell, "count": cell}
