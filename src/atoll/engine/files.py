"""`sandbox.files`: every path is resolved inside, by the sandbox's own kernel view and user."""

from __future__ import annotations

import json
from collections.abc import AsyncIterable, AsyncIterator, Callable
from typing import Any, Literal, TypeVar, overload

from atoll.engine.file_worker import FileWorker, FileWorkers, entry_from_wire
from atoll.engine.watch import Watch
from atoll.model import EntryInfo, GuestBroken, InvalidArgument

T = TypeVar("T")

MOST_IN_MEMORY = 1 << 30
"""Bytes that `read` gives back at once; larger files want ``format="stream"``."""

_MOST_ENTRIES = 2_000_000
_SLICE = 1 << 20


class Files:
    """Files of one sandbox. Relative paths and ``~`` start at the user's home.

    Every method takes `user`: whose rights hold; None: the template's default user.
    """

    def __init__(self, workers: FileWorkers) -> None:
        self._workers = workers

    @overload
    async def read(
        self, path: str, format: Literal["text"] = "text", *, user: str | None = None
    ) -> str: ...

    @overload
    async def read(
        self, path: str, format: Literal["bytes"], *, user: str | None = None
    ) -> bytes: ...

    @overload
    async def read(
        self, path: str, format: Literal["stream"], *, user: str | None = None
    ) -> AsyncIterator[bytes]: ...

    async def read(
        self,
        path: str,
        format: Literal["text", "bytes", "stream"] = "text",
        *,
        user: str | None = None,
    ) -> str | bytes | AsyncIterator[bytes]:
        """A file's content: text (UTF-8), bytes, or an async iterator of bytes.

        Raises:
            FileNotFound, FileAccessDenied, IsADirectory, NotARegularFile, InvalidPath, UnknownUser.
            InvalidArgument: not UTF-8, or too large for one answer.
        """
        if format == "stream":
            return self._stream(path, user)
        if format not in ("text", "bytes"):
            raise InvalidArgument(f"format is text, bytes or stream, not {format!r}")
        data = await self._read(path, user)
        if format == "bytes":
            return data
        try:
            return data.decode()
        except UnicodeDecodeError:
            raise InvalidArgument(
                f"{path} is not UTF-8 text", hint='read it with format="bytes"'
            ) from None

    async def write(
        self,
        path: str,
        data: str | bytes | AsyncIterable[bytes],
        *,
        user: str | None = None,
        mode: int | None = None,
        append: bool = False,
    ) -> EntryInfo:
        """Write a file, making the directories above it; what was in it is replaced.

        When this returns the data is in the file. If it is cancelled or fails, a part may be.

        Raises:
            FileAccessDenied, IsADirectory, NotARegularFile, NotADirectory, DiskFull, InvalidPath.
        """
        options = {"append": append} if mode is None else {"append": append, "mode": mode}
        async with self._workers.run("write", user, sends=True, path=path, **options) as worker:
            await _send_all(worker, data)
            worker.finish_sending()
            return _entry(await worker.answer())

    async def list(self, path: str, depth: int = 1, *, user: str | None = None) -> list[EntryInfo]:
        """What is in a directory, and `depth` - 1 levels below, without the directory itself.

        Raises:
            FileNotFound, NotADirectory, FileAccessDenied, InvalidPath.
        """
        if isinstance(depth, bool) or not isinstance(depth, int) or not 0 < depth <= 1000:
            raise InvalidArgument(f"depth must be an int from 1 to 1000, not {depth!r}")
        entries: list[EntryInfo] = []
        async with self._workers.run("list", user, path=path, depth=depth) as worker:
            await worker.answer()
            async for batch in worker.lines():
                entries += _entries(batch, worker)
                if len(entries) > _MOST_ENTRIES:
                    raise InvalidArgument(f"{path} has over {_MOST_ENTRIES} entries")
        return entries

    async def stat(self, path: str, *, user: str | None = None) -> EntryInfo:
        """One entry; a symlink is described itself. Raises FileNotFound and others."""
        return await self._ask("stat", user, _entry, path=path)

    get_info = stat

    async def exists(self, path: str, *, user: str | None = None) -> bool:
        """True if something is there. Raises FileAccessDenied if that cannot be known."""
        return await self._ask("exists", user, lambda ok: ok.get("exists") is True, path=path)

    async def make_dir(self, path: str, *, user: str | None = None) -> bool:
        """Make a directory and those above it; False if it was there already."""
        return await self._ask("make_dir", user, lambda ok: ok.get("created") is True, path=path)

    async def move(self, source: str, target: str, *, user: str | None = None) -> EntryInfo:
        """Rename or move a file or directory. Raises FileNotFound, DirectoryNotEmpty and others."""
        return await self._ask("move", user, _entry, source=source, target=target)

    rename = move

    async def remove(self, path: str, *, user: str | None = None) -> None:
        """Remove a file, or a directory with all that is in it. Raises FileNotFound and others."""
        await self._ask("remove", user, lambda ok: None, path=path)

    async def watch(self, path: str, recursive: bool = False, *, user: str | None = None) -> Watch:
        """Changes in a directory from now on; see Watch. Raises FileNotFound, NotADirectory."""
        return await Watch.open(self._workers, path, recursive, user)

    async def _ask(
        self, do: str, user: str | None, parse: Callable[[dict[str, Any]], T], **params: Any
    ) -> T:
        # Parsed inside of the block, where an answer of the wrong shape ends the sandbox.
        async with self._workers.run(do, user, **params) as worker:
            return parse(await worker.answer())

    async def _read(self, path: str, user: str | None) -> bytes:
        async with self._workers.run("read", user, path=path) as worker:
            size = _size(await worker.answer())
            worker.expect(size)
            data = await worker.rest(MOST_IN_MEMORY) if size <= MOST_IN_MEMORY else None
            if data is None:
                raise InvalidArgument(
                    f"{path} is larger than {MOST_IN_MEMORY} bytes",
                    hint='read it with format="stream"',
                )
        return data

    async def _stream(self, path: str, user: str | None) -> AsyncIterator[bytes]:
        async with self._workers.run("read", user, path=path) as worker:
            worker.expect(_size(await worker.answer()))
            async for piece in worker.pieces():
                yield piece


async def _send_all(worker: FileWorker, data: str | bytes | AsyncIterable[bytes]) -> None:
    if isinstance(data, str):
        data = data.encode()
    if isinstance(data, bytes | bytearray | memoryview):
        await worker.send(data)
    elif isinstance(data, AsyncIterable):
        async for piece in data:
            if not await worker.send(piece):
                return
    else:
        raise InvalidArgument(f"data is text, bytes or an async iterable, not {type(data)}")


def _size(ok: dict[str, Any]) -> int:
    size = ok.get("size")
    if type(size) is not int or size < 0:
        raise GuestBroken("a file worker announced no size")
    return size


def _entry(ok: dict[str, Any]) -> EntryInfo:
    return entry_from_wire(ok.get("entry"))


def _entries(batch: list[bytes], worker: FileWorker) -> list[EntryInfo]:
    try:
        # One parse for the whole batch: a tenth of the cost of one a line.
        objects = json.loads(b"[" + b",".join(batch) + b"]")
    except (ValueError, RecursionError):
        raise worker.broken("sent what is not JSON") from None
    return [entry_from_wire(item) for item in objects]
