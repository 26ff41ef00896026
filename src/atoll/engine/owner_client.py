"""Asks every live owner of a data directory: what `atoll ps`, `exec`, `kill` and `cp` use."""

from __future__ import annotations

import json
import logging
import socket
import struct
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio

from atoll.engine import owner_frames as frames
from atoll.engine.commands import ProcessInfo
from atoll.engine.owner_frames import Connection
from atoll.engine.unix_sockets import connected
from atoll.model import (
    CommandResult,
    EntryInfo,
    InvalidArgument,
    KilledBy,
    OwnerError,
    SandboxInfo,
    SandboxNotFound,
    SandboxState,
)

ANSWER_SECONDS = 10.0
_PIECE = 1 << 16
_STREAM_OF = {code: name for name, code in frames.STREAMS.items()}

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Owned:
    """A sandbox, and the owner that holds it."""

    owner: str
    owner_pid: int
    info: SandboxInfo
    processes: tuple[ProcessInfo, ...]


class Owners:
    """The live owners of one data directory, asked through their sockets."""

    def __init__(self, data_dir: Path) -> None:
        self._owners = data_dir / "owners"

    async def ps(self) -> list[Owned]:
        """Every sandbox of this user here, oldest first. An owner that is silent is left out."""
        found: list[Owned] = []
        async with anyio.create_task_group() as tasks:
            for path in self._sockets():
                tasks.start_soon(self._ask_one, path, found)
        return sorted(found, key=lambda owned: owned.info.started_at)

    async def find(self, id: str) -> Owned:
        """The sandbox with this id, or the only one whose id begins so.

        Raises:
            SandboxNotFound: none. InvalidArgument: several.
        """
        every = await self.ps()
        exact = [owned for owned in every if owned.info.id == id]
        fitting = exact or [owned for owned in every if id and owned.info.id.startswith(id)]
        if not fitting:
            raise SandboxNotFound(
                f"no sandbox has the id {id!r}", hint="`atoll ps` lists all that are alive"
            )
        if len(fitting) > 1:
            raise InvalidArgument(f"the ids of {len(fitting)} sandboxes begin with {id!r}")
        return fitting[0]

    async def kill(self, id: str) -> bool:
        """End a sandbox; False if it ended by itself meanwhile. Raises SandboxNotFound."""
        owned = await self.find(id)
        async with self._asking(owned, {"op": "kill", "id": owned.info.id}) as (_, answer):
            return answer["killed"] is True

    @asynccontextmanager
    async def exec(
        self,
        id: str,
        cmd: str | Sequence[str],
        *,
        terminal: tuple[int, int] | None = None,
        stdin: bool = True,
        user: str | None = None,
        cwd: str | None = None,
        env: dict[str, str] | None = None,
    ) -> AsyncIterator[RemoteProcess]:
        """A command in a sandbox; leaving the block early kills it.

        Args:
            cmd: a line for the shell or a list; with a terminal, a list.
            terminal: (rows, columns) of a pty.

        Raises:
            SandboxNotFound, and what `Commands.start` raises.
        """
        owned = await self.find(id)
        request = {
            "op": "exec",
            "id": owned.info.id,
            "cmd": cmd if isinstance(cmd, str) else list(cmd),
            "terminal": terminal,
            "stdin": stdin,
            "user": user,
            "cwd": cwd,
            "env": env,
        }
        async with self._asking(owned, request) as (connection, answer):
            yield RemoteProcess(connection, answer["pid"])

    async def read(self, id: str, path: str, *, user: str | None = None) -> AsyncIterator[bytes]:
        """A file's bytes. Raises SandboxNotFound, and what `Files.read` raises."""
        owned = await self.find(id)
        request = {"op": "read", "id": owned.info.id, "path": path, "user": user}
        async with self._connected(owned.owner) as connection:
            await connection.send_object(frames.REQUEST, request)
            while True:
                kind, payload = await _frame(connection)
                if kind == frames.RESULT:
                    return
                yield payload

    async def write(
        self,
        id: str,
        path: str,
        data: AsyncIterable[bytes],
        *,
        user: str | None = None,
        mode: int | None = None,
    ) -> EntryInfo:
        """Write a file. Raises SandboxNotFound, and what `Files.write` raises."""
        owned = await self.find(id)
        request = {"op": "write", "id": owned.info.id, "path": path, "user": user, "mode": mode}
        async with self._connected(owned.owner) as connection:
            await connection.send_object(frames.REQUEST, request)
            try:
                async for piece in data:
                    for start in range(0, len(piece), _PIECE):
                        await connection.send(frames.INPUT, piece[start : start + _PIECE])
                await connection.send(frames.INPUT_END)
            except ConnectionError:
                _log.debug("the owner stopped reading; its answer says why")
            _, payload = await _frame(connection)
            return EntryInfo(**json.loads(payload)["entry"])

    async def _ask_one(self, path: Path, found: list[Owned]) -> None:
        try:
            with anyio.fail_after(ANSWER_SECONDS):
                async with self._connected(path.parent.name) as connection:
                    await connection.send_object(frames.REQUEST, {"op": "ps"})
                    answer = json.loads((await _frame(connection))[1])
        except (OSError, TimeoutError, OwnerError) as error:
            # Dead, or ending at this moment: its sandboxes are ending with it.
            _log.info("the owner %s does not answer: %s", path.parent.name, error)
            return
        for item in answer["sandboxes"]:
            info = SandboxInfo(**{**item["info"], "state": SandboxState(item["info"]["state"])})
            processes = tuple(
                ProcessInfo(**{**process, "args": tuple(process["args"])})
                for process in item["processes"]
            )
            found.append(Owned(answer["owner"], answer["pid"], info, processes))

    def _sockets(self) -> list[Path]:
        return sorted(self._owners.glob("*/socket"))

    @asynccontextmanager
    async def _connected(self, owner: str) -> AsyncIterator[Connection]:
        sock = connected(self._owners / owner / "socket", socket.SOCK_STREAM)
        sock.setblocking(False)
        connection = await Connection.of(sock)
        try:
            yield connection
        finally:
            connection.close()

    @asynccontextmanager
    async def _asking(
        self, owned: Owned, request: dict[str, Any]
    ) -> AsyncIterator[tuple[Connection, dict[str, Any]]]:
        async with self._connected(owned.owner) as connection:
            await connection.send_object(frames.REQUEST, request)
            yield connection, json.loads((await _frame(connection))[1])


class RemoteProcess:
    """A process in a sandbox of another program's."""

    def __init__(self, connection: Connection, pid: int) -> None:
        self.pid = pid
        self._connection = connection
        self._result: CommandResult | None = None

    async def output(self) -> AsyncIterator[tuple[str, bytes]]:
        """What it writes, as (stream, bytes), until it has ended."""
        while self._result is None:
            kind, payload = await _frame(self._connection)
            if kind == frames.RESULT:
                self._result = _command_result(payload)
            else:
                yield _STREAM_OF[kind], payload

    async def wait(self) -> CommandResult:
        """How it ended; its output must have been read, or is thrown away."""
        async for _ in self.output():
            continue
        assert self._result is not None
        return self._result

    async def send(self, data: bytes) -> None:
        """Give `data` to its standard input, or type it."""
        for start in range(0, len(data), _PIECE):
            await self._connection.send(frames.INPUT, data[start : start + _PIECE])

    async def close_input(self) -> None:
        """End its standard input."""
        await self._connection.send(frames.INPUT_END)

    async def send_signal(self, name: str) -> None:
        """Send the signal `name` to it and its group."""
        await self._connection.send(frames.SIGNAL, name.encode())

    async def stop(self) -> None:
        """Its time is over: SIGTERM, grace, SIGKILL."""
        await self._connection.send(frames.STOP)

    async def resize(self, cols: int, rows: int) -> None:
        """Its terminal has another size."""
        await self._connection.send(frames.RESIZE, struct.pack("!HH", rows, cols))


async def _frame(connection: Connection) -> tuple[bytes, bytes]:
    frame = await connection.receive()
    if frame is None:
        raise OwnerError("the owner of the sandbox has ended")
    if frame[0] == frames.ERROR:
        raise frames.error_of(json.loads(frame[1]))
    return frame


def _command_result(payload: bytes) -> CommandResult:
    value = json.loads(payload)
    killed_by = value.pop("killed_by")
    return CommandResult(**value, killed_by=KilledBy(killed_by) if killed_by else None)
