"""What an owner answers on its socket: ps, kill, exec, and reading and writing files."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import socket
import struct
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Protocol

import anyio

from atoll.engine import owner_frames as frames
from atoll.engine.commands import CommandHandle
from atoll.engine.owner_frames import Connection
from atoll.engine.pty import PtyHandle
from atoll.engine.sandbox import Sandbox
from atoll.engine.unix_sockets import listening
from atoll.model import AtollError, InvalidArgument, KilledBy, SandboxInfo

_BACKLOG = 64

_log = logging.getLogger(__name__)


class Holder(Protocol):
    """What the socket asks: an engine."""

    def list(self) -> list[SandboxInfo]:
        """Its sandboxes."""

    async def get(self, id: str) -> Sandbox:
        """One of them. Raises SandboxNotFound."""

    async def kill(self, id: str) -> bool:
        """End one of them."""


class OwnerSocket:
    """Listens for the same user's programs.

    Args:
        path: where; made with mode 0600.
        owner: its name.
        holder: who holds the sandboxes.
    """

    def __init__(self, path: Path, owner: str, holder: Holder) -> None:
        self._owner = owner
        self._holder = holder
        self._socket = listening(path, socket.SOCK_STREAM, _BACKLOG)
        self._socket.setblocking(False)

    async def serve(self) -> None:
        """Answer until cancelled."""
        with self._socket:
            async with anyio.create_task_group() as tasks:
                while True:
                    await anyio.wait_readable(self._socket)
                    try:
                        peer, _ = self._socket.accept()
                    except (BlockingIOError, ConnectionError):
                        continue
                    if _same_user(peer):
                        tasks.start_soon(self._answer, peer)
                    else:
                        peer.close()

    async def _answer(self, peer: socket.socket) -> None:
        connection = await Connection.of(peer)
        try:
            try:
                await self._perform(connection)
            except AtollError as error:
                await _tell(connection, error)
            except OSError:
                return  # the asker is gone
            except Exception as error:
                _log.exception("a request on the owner's socket failed")
                await _tell(connection, AtollError(f"{type(error).__name__}: {error}"))
            await connection.finish()
        finally:
            connection.close()

    async def _perform(self, connection: Connection) -> None:
        frame = await connection.receive()
        if frame is None:
            return
        request = json.loads(frame[1])
        operations: dict[str, Callable[[Connection, dict[str, Any]], Any]] = {
            "ps": self._ps,
            "kill": self._kill,
            "exec": self._exec,
            "read": self._read,
            "write": self._write,
        }
        operation = operations.get(request.get("op"))
        if operation is None:
            raise InvalidArgument(f"an owner does not know {request.get('op')!r}")
        await operation(connection, request)

    async def _ps(self, connection: Connection, request: dict[str, Any]) -> None:
        listed = []
        for info in self._holder.list():
            sandbox = await self._holder.get(info.id)
            listed.append({"info": info, "processes": sandbox.commands.list()})
        answer = {"owner": self._owner, "pid": os.getpid(), "sandboxes": listed}
        await connection.send_object(frames.REQUEST, answer)

    async def _kill(self, connection: Connection, request: dict[str, Any]) -> None:
        killed = await self._holder.kill(request["id"])
        await connection.send_object(frames.REQUEST, {"killed": killed})

    async def _exec(self, connection: Connection, request: dict[str, Any]) -> None:
        sandbox = await self._holder.get(request["id"])
        where = {name: request[name] for name in ("user", "cwd", "env")}
        handle: CommandHandle | PtyHandle
        if request["terminal"]:
            rows, cols = request["terminal"]
            handle = await sandbox.pty.create(cols, rows, request["cmd"], **where)
        else:
            stdin = request["stdin"]
            handle = await sandbox.commands.start(request["cmd"], stdin=stdin, **where)
        try:
            await connection.send_object(frames.REQUEST, {"pid": handle.pid})
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._obey, connection, handle, tasks.cancel_scope)
                await _send_output(connection, handle)
                result = await handle.wait()
                tasks.cancel_scope.cancel()
        finally:
            # The asker may have gone in the middle; what it started goes with it.
            with anyio.CancelScope(shield=True):
                await handle.kill()
        # The output has gone already, piece by piece.
        ended = dataclasses.replace(result, stdout="", stderr="")
        await connection.send_object(frames.RESULT, ended)

    async def _obey(
        self,
        connection: Connection,
        handle: CommandHandle | PtyHandle,
        scope: anyio.CancelScope,
    ) -> None:
        while (frame := await connection.receive()) is not None:
            kind, payload = frame
            try:
                await _act(kind, payload, handle)
            except AtollError as error:
                # Input for a process that has just ended, mostly; its result says the rest.
                _log.debug("%s", error)
        scope.cancel()

    async def _read(self, connection: Connection, request: dict[str, Any]) -> None:
        sandbox = await self._holder.get(request["id"])
        pieces = await sandbox.files.read(request["path"], "stream", user=request["user"])
        async for piece in pieces:
            await connection.send(frames.STREAMS["stdout"], piece)
        await connection.send_object(frames.RESULT, {})

    async def _write(self, connection: Connection, request: dict[str, Any]) -> None:
        sandbox = await self._holder.get(request["id"])
        entry = await sandbox.files.write(
            request["path"], _incoming(connection), user=request["user"], mode=request["mode"]
        )
        await connection.send_object(frames.RESULT, {"entry": entry})


async def _send_output(connection: Connection, handle: CommandHandle | PtyHandle) -> None:
    if isinstance(handle, PtyHandle):
        async for data in handle:
            await connection.send(frames.STREAMS["pty"], data)
    else:
        async for stream, data in handle:
            await connection.send(frames.STREAMS[stream], data)


async def _act(kind: bytes, payload: bytes, handle: CommandHandle | PtyHandle) -> None:
    if kind == frames.SIGNAL:
        await handle.kill(payload.decode())
    elif kind == frames.STOP:
        await handle.stop(KilledBy.WALL)
    elif kind == frames.RESIZE and isinstance(handle, PtyHandle):
        rows, cols = struct.unpack("!HH", payload)
        await handle.resize(cols, rows)
    elif kind == frames.INPUT:
        await handle.send_stdin(payload)
    elif kind == frames.INPUT_END and isinstance(handle, CommandHandle):
        await handle.close_stdin()


async def _incoming(connection: Connection) -> AsyncIterator[bytes]:
    while True:
        frame = await connection.receive()
        if frame is None:
            raise InvalidArgument("the file was not sent to its end")
        kind, payload = frame
        if kind == frames.INPUT_END:
            return
        yield payload


async def _tell(connection: Connection, error: AtollError) -> None:
    try:
        await connection.send_object(frames.ERROR, frames.error_object(error))
    except OSError:
        return  # the asker is gone


def _same_user(peer: socket.socket) -> bool:
    if not hasattr(socket, "SO_PEERCRED"):
        return True  # elsewhere the mode of the socket and of its directory says it
    size = struct.calcsize("3i")
    _, uid, _ = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return bool(uid == os.geteuid())
