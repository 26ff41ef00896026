"""`atoll cp`: files and directories between this machine and a sandbox that runs."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, BinaryIO

import anyio
import anyio.to_thread
import typer

from atoll.cli import terminal
from atoll.cli.processes import owners_of
from atoll.cli.settings import AsJson, settings_of
from atoll.model import FileError, FileNotFound, InvalidArgument

if TYPE_CHECKING:
    from atoll.engine.owner_client import Owners

_PIECE = 1 << 20


@dataclass(frozen=True)
class Place:
    """One side of a copy: a path here, or one in a sandbox."""

    path: str
    sandbox: str | None = None

    @classmethod
    def parse(cls, text: str) -> Place:
        """``ID:PATH`` is in a sandbox; what has a slash before its colon, or no colon, is here."""
        head, colon, tail = text.partition(":")
        if not colon or "/" in head or not head:
            return cls(text)
        return cls(tail or ".", head)


def cp(
    context: typer.Context,
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="PATH or ID:PATH.")],
    target: Annotated[str, typer.Argument(metavar="TARGET", help="PATH or ID:PATH.")],
    user: Annotated[
        str | None, typer.Option(metavar="NAME", help="Whose rights hold inside.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Copy a file or a directory into a sandbox or out of it.

    One of the two is ID:PATH. A path in a sandbox that is not absolute starts at its user's home.
    Directories need `tar` in the sandbox.
    """

    async def work() -> int:
        first, second = Place.parse(source), Place.parse(target)
        owners = owners_of(settings_of(context))
        if first.sandbox and not second.sandbox:
            size = await copy_out(owners, first, Path(second.path), user)
        elif second.sandbox and not first.sandbox:
            size = await copy_in(owners, Path(first.path), second, user)
        else:
            raise InvalidArgument(
                "one side of a copy is in a sandbox, the other is here",
                hint="write ID:PATH for the one in the sandbox",
            )
        if as_json:
            terminal.print_json({"bytes": size})
        return 0

    raise typer.Exit(terminal.finish(work, as_json=as_json))


async def copy_out(owners: Owners, source: Place, target: Path, user: str | None) -> int:
    """Copy from a sandbox; what was at `target` stays until all of it has come."""
    assert source.sandbox is not None
    name = PurePosixPath(source.path).name
    if await is_directory(owners, source, user):
        from atoll.cli.copy_tree import tree_out

        return await tree_out(owners, source.sandbox, source.path, target, user)
    if await anyio.to_thread.run_sync(target.is_dir):
        target = target / name
    part = target.with_name(f".{target.name}.atoll-part")
    size = 0
    try:
        with _opened(part) as file:
            async for piece in owners.read(source.sandbox, source.path, user=user):
                size += await anyio.to_thread.run_sync(file.write, piece)
        await anyio.to_thread.run_sync(os.replace, part, target)
    except BaseException:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(lambda: part.unlink(missing_ok=True))
        raise
    return size


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("wb")
    except OSError as error:
        raise InvalidArgument(f"cannot write {path.parent}: {error.strerror}") from None


async def copy_in(owners: Owners, source: Path, target: Place, user: str | None) -> int:
    """Copy into a sandbox, below `target` if that is a directory."""
    assert target.sandbox is not None
    name, mode = await anyio.to_thread.run_sync(_examined, source)
    inside = target.path
    if inside.endswith("/") or await is_directory(owners, target, user):
        inside = str(PurePosixPath(inside, name))
    if mode is None:
        from atoll.cli.copy_tree import tree_in

        return await tree_in(owners, target.sandbox, source, inside, user)
    entry = await owners.write(target.sandbox, inside, _pieces(source), user=user, mode=mode)
    return entry.size


def _examined(path: Path) -> tuple[str, int | None]:
    """Its name, and its permission bits; None for those of a directory."""
    name = path.resolve().name
    if path.is_dir():
        return name, None
    if not path.exists():
        raise FileNotFound(f"there is no file {path}")
    if not path.is_file():
        raise InvalidArgument(f"{path} is neither a file nor a directory")
    return name, path.stat().st_mode & 0o777


async def _pieces(path: Path) -> AsyncIterator[bytes]:
    async with await anyio.open_file(path, "rb") as file:
        while piece := await file.read(_PIECE):
            yield piece


async def is_directory(owners: Owners, place: Place, user: str | None) -> bool:
    """True if there is a directory; asked inside, by the user's own rights."""
    assert place.sandbox is not None
    try:
        async with owners.exec(
            place.sandbox, ["test", "-d", place.path], stdin=False, user=user
        ) as process:
            return (await process.wait()).exit_code == 0
    except FileError:
        return False  # no `test` there: then it is for a file, or the copy says what is wrong
