"""What hangs on an engine or a sandbox, without `await`; see `sync`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, Unpack, overload

from atoll.engine.commands import CommandHandle, CommandOptions, Commands
from atoll.engine.files import Files
from atoll.engine.front import Closing, Front, blocking, giving, in_threads, pieces, plain, soon
from atoll.engine.network import SandboxNetwork
from atoll.engine.output import Piece
from atoll.engine.pty import PtyHandle, Ptys
from atoll.engine.templates import Templates
from atoll.engine.watch import Watch
from atoll.model import CommandResult, EntryInfo, NetworkPolicy, WatchEvent


class SyncCommandHandle(Front[CommandHandle]):
    """`CommandHandle` with plain methods. Iterate it for (stream, bytes)."""

    wait = blocking(CommandHandle.wait)
    ended = blocking(CommandHandle.ended)
    kill = blocking(CommandHandle.kill)
    stop = blocking(CommandHandle.stop)
    send_stdin = blocking(CommandHandle.send_stdin)
    close_stdin = blocking(CommandHandle.close_stdin)
    disconnect = plain(CommandHandle.disconnect)

    @property
    def pid(self) -> int:
        """See CommandHandle.pid."""
        return self._target.pid

    @property
    def exit_code(self) -> int | None:
        """See CommandHandle.exit_code."""
        return self._target.exit_code

    @property
    def stdout(self) -> str:
        """See CommandHandle.stdout."""
        return self._target.stdout

    @property
    def stderr(self) -> str:
        """See CommandHandle.stderr."""
        return self._target.stderr

    def __iter__(self) -> Iterator[Piece]:
        return self._iterate(aiter(self._target))


class SyncNetwork(Front[SandboxNetwork]):
    """`SandboxNetwork` with plain methods."""

    update = blocking(SandboxNetwork.update)
    report = blocking(SandboxNetwork.report)

    @property
    def policy(self) -> NetworkPolicy | None:
        """What it may reach; None: its own loopback."""
        return self._target.policy


class SyncCommands(Front[Commands]):
    """`Commands` with plain methods. Callbacks run in worker threads and may call back."""

    @overload
    def run(
        self, cmd: str | Sequence[str], *, background: Literal[False] = False,
        timeout: float | None = 60.0, **options: Unpack[CommandOptions],
    ) -> CommandResult: ...  # fmt: skip

    @overload
    def run(
        self, cmd: str | Sequence[str], *, background: Literal[True],
        timeout: float | None = 60.0, **options: Unpack[CommandOptions],
    ) -> SyncCommandHandle: ...  # fmt: skip

    def run(
        self,
        cmd: str | Sequence[str],
        *,
        background: bool = False,
        timeout: float | None = 60.0,
        **options: Unpack[CommandOptions],
    ) -> CommandResult | SyncCommandHandle:
        """See Commands.run."""
        given = in_threads(options)
        if background:
            handle = self._run(
                lambda commands: commands.run(cmd, background=True, timeout=timeout, **given)
            )
            return SyncCommandHandle(self._beside(handle))
        return self._run(
            lambda commands: commands.run(cmd, background=False, timeout=timeout, **given)
        )

    start = giving(SyncCommandHandle, Commands.start)
    connect = giving(SyncCommandHandle, soon(Commands.connect))
    list = plain(Commands.list)
    kill = blocking(Commands.kill)
    send_stdin = blocking(Commands.send_stdin)
    close_stdin = blocking(Commands.close_stdin)


class SyncWatch(Closing, Front[Watch]):
    """`Watch` with plain methods. Iterate it for events, and use it in a block."""

    close = blocking(Watch.close)

    def __iter__(self) -> Iterator[WatchEvent]:
        return self._iterate(self._target)

    def _leave(self) -> None:
        self.close()


class SyncFiles(Front[Files]):
    """`Files` with plain methods."""

    @overload
    def read(
        self, path: str, format: Literal["text"] = "text", *, user: str | None = None
    ) -> str: ...

    @overload
    def read(self, path: str, format: Literal["bytes"], *, user: str | None = None) -> bytes: ...

    @overload
    def read(
        self, path: str, format: Literal["stream"], *, user: str | None = None
    ) -> Iterator[bytes]: ...

    def read(
        self,
        path: str,
        format: Literal["text", "bytes", "stream"] = "text",
        *,
        user: str | None = None,
    ) -> str | bytes | Iterator[bytes]:
        """A file's content: text (UTF-8), bytes, or an iterator of bytes. See Files.read."""
        if format == "stream":
            stream = self._run(lambda files: files.read(path, "stream", user=user))
            return self._iterate(stream)
        if format == "bytes":
            return self._run(lambda files: files.read(path, "bytes", user=user))
        return self._call(Files.read, path, format, user=user)

    def write(
        self,
        path: str,
        data: str | bytes | Iterable[bytes],
        *,
        user: str | None = None,
        mode: int | None = None,
        append: bool = False,
    ) -> EntryInfo:
        """Write a file, as one piece or one by one. See Files.write."""
        if isinstance(data, bytearray | memoryview):
            data = bytes(data)
        source = data if isinstance(data, str | bytes) else pieces(iter(data))
        return self._call(Files.write, path, source, user=user, mode=mode, append=append)

    list = blocking(Files.list)
    stat = get_info = blocking(Files.stat)
    exists = blocking(Files.exists)
    make_dir = blocking(Files.make_dir)
    move = rename = blocking(Files.move)
    remove = blocking(Files.remove)
    watch = giving(SyncWatch, Files.watch)


class SyncPtyHandle(Front[PtyHandle]):
    """`PtyHandle` with plain methods. Iterate it for bytes."""

    send_input = send_stdin = blocking(PtyHandle.send_input)
    resize = blocking(PtyHandle.resize)
    kill = blocking(PtyHandle.kill)
    stop = blocking(PtyHandle.stop)
    wait = blocking(PtyHandle.wait)

    @property
    def pid(self) -> int:
        """See PtyHandle.pid."""
        return self._target.pid

    def __iter__(self) -> Iterator[bytes]:
        return self._iterate(aiter(self._target))


class SyncPtys(Front[Ptys]):
    """`Ptys` with plain methods."""

    create = giving(SyncPtyHandle, Ptys.create)
    connect = giving(SyncPtyHandle, soon(Ptys.connect))


class SyncTemplates(Front[Templates]):
    """`Templates` with plain methods."""

    add = plain(Templates.add)
    names = plain(Templates.names)
    list = plain(Templates.list)
    get = blocking(Templates.get)
    resolve = blocking(Templates.resolve)
    build = blocking(Templates.build)
