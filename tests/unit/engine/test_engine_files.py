"""Files through the real worker of the guest."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest
from engine_kit import open_descriptors

from atoll.engine import Sandbox
from atoll.model import (
    FileAccessDenied,
    FileNotFound,
    GuestBroken,
    InvalidArgument,
    InvalidPath,
    IsADirectory,
    NotARegularFile,
    SandboxDied,
    UnknownUser,
    WatchEvent,
)
from atoll.testing.waiting import eventually

pytestmark = pytest.mark.anyio


async def test_what_is_written_is_read(sandbox: Sandbox, place: Path) -> None:
    entry = await sandbox.files.write(f"{place}/a/b/c.txt", "hé")
    assert (entry.name, entry.type, entry.size) == ("c.txt", "file", 3)
    assert await sandbox.files.read(f"{place}/a/b/c.txt") == "hé"
    assert await sandbox.files.read(f"{place}/a/b/c.txt", "bytes") == "hé".encode()


async def test_large_files_and_streams(sandbox: Sandbox, place: Path) -> None:
    data = os.urandom(5 << 20)

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(data), 100_000):
            yield data[start : start + 100_000]

    await sandbox.files.write(f"{place}/large", pieces())
    assert await sandbox.files.read(f"{place}/large", "bytes") == data
    stream = await sandbox.files.read(f"{place}/large", "stream")
    assert b"".join([piece async for piece in stream]) == data
    assert await sandbox.files.read(f"{place}/large", "bytes") == data


async def test_append_and_mode(sandbox: Sandbox, place: Path) -> None:
    await sandbox.files.write(f"{place}/x", "a", mode=0o600)
    entry = await sandbox.files.write(f"{place}/x", "b", append=True)
    assert (entry.mode, await sandbox.files.read(f"{place}/x")) == (0o600, "ab")


async def test_an_empty_file(sandbox: Sandbox, place: Path) -> None:
    await sandbox.files.write(f"{place}/empty", b"")
    assert await sandbox.files.read(f"{place}/empty", "bytes") == b""


async def test_list_stat_move_remove(sandbox: Sandbox, place: Path) -> None:
    top = f"{place}/top"
    assert await sandbox.files.make_dir(f"{top}/one/two")
    assert not await sandbox.files.make_dir(f"{top}/one/two")
    await sandbox.files.write(f"{top}/one/file", "x")
    names = [entry.path for entry in await sandbox.files.list(top)]
    assert names == [f"{top}/one"]
    deep = [entry.path for entry in await sandbox.files.list(top, depth=3)]
    assert deep == [f"{top}/one", f"{top}/one/file", f"{top}/one/two"]
    assert (await sandbox.files.stat(f"{top}/one")).type == "dir"
    moved = await sandbox.files.move(f"{top}/one/file", f"{top}/new")
    assert moved.path == f"{top}/new"
    assert not await sandbox.files.exists(f"{top}/one/file")
    await sandbox.files.remove(top)
    assert not await sandbox.files.exists(top)


async def test_a_directory_of_thousands_is_listed(sandbox: Sandbox, place: Path) -> None:
    many = place / "many"
    many.mkdir()
    for number in range(3000):
        (many / f"{number:05}").touch()
    assert len(await sandbox.files.list(str(many))) == 3000


async def test_names_that_are_not_utf8_survive(sandbox: Sandbox, place: Path) -> None:
    (place / os.fsdecode(b"\xff\xfe")).touch()
    (entry,) = [e for e in await sandbox.files.list(str(place)) if e.type == "file"]
    assert os.fsencode(entry.name) == b"\xff\xfe"
    assert await sandbox.files.exists(entry.path)


async def test_errors_are_typed(sandbox: Sandbox, place: Path) -> None:
    files = sandbox.files
    os.mkfifo(place / "fifo")
    for path, kind in (
        ("/no/such", FileNotFound),
        (str(place), IsADirectory),
        (f"{place}/fifo", NotARegularFile),
        ("/dev/zero", NotARegularFile),
        ("/etc/shadow", FileAccessDenied),
        ("", InvalidPath),
        ("a\0b", InvalidPath),
        ("x" * 5000, InvalidPath),
    ):
        with pytest.raises(kind):
            await files.read(path)
    with pytest.raises(UnknownUser):
        await files.read("/etc/passwd", user="nobody-at-all")
    with pytest.raises(InvalidArgument):
        await files.read("/etc/passwd", "lines")  # type: ignore[call-overload]
    with pytest.raises(InvalidArgument):
        await files.list("/", depth=0)
    (place / "binary").write_bytes(b"\xff")
    with pytest.raises(InvalidArgument, match="not UTF-8"):
        await files.read(f"{place}/binary")
    with pytest.raises(FileAccessDenied):
        await files.write("/etc/passwd", "x" * 300_000)
    assert sandbox.is_running()


async def test_a_cancelled_transfer_leaves_nothing(sandbox: Sandbox, place: Path) -> None:
    block = b"x" * (1 << 20)

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield block

    before = open_descriptors()
    for delay in (0, 0.001, 0.02):
        with anyio.move_on_after(delay):
            await sandbox.files.write(f"{place}/endless", endless())
    assert open_descriptors() == before
    await eventually(lambda: children_of(sandbox.launched.pid) == 0)


def children_of(pid: int) -> int:
    return len(Path(f"/proc/{pid}/task/{pid}/children").read_text().split())


async def test_an_error_of_the_source_ends_the_write(sandbox: Sandbox, place: Path) -> None:
    async def source() -> AsyncIterator[bytes]:
        yield b"x"
        raise LookupError

    with pytest.raises(LookupError):
        await sandbox.files.write(f"{place}/x", source())
    assert await sandbox.files.exists("/")


async def test_a_watch_tells_in_order(sandbox: Sandbox, place: Path) -> None:
    async with await sandbox.files.watch(str(place), recursive=True) as watch:
        (place / "a").mkdir()
        (place / "b").write_text("x")
        (place / "b").rename(place / "c")
        (place / "c").unlink()
        seen: list[WatchEvent] = []
        with anyio.fail_after(5):
            async for event in watch:
                seen.append(event)
                if event == WatchEvent("remove", "c"):
                    break
    kinds = [(event.type, event.path) for event in seen]
    assert kinds[:3] == [("create", "a"), ("create", "b"), ("write", "b")]
    assert kinds[-3:] == [("rename", "b"), ("create", "c"), ("remove", "c")]


async def test_a_closed_watch_ends_its_iteration(sandbox: Sandbox, place: Path) -> None:
    watch = await sandbox.files.watch(str(place))
    async with anyio.create_task_group() as tasks:

        async def close() -> None:
            await anyio.wait_all_tasks_blocked()
            await watch.close()

        tasks.start_soon(close)
        assert [event async for event in watch] == []
    await watch.close()


async def test_the_end_of_the_sandbox_ends_a_watch(sandbox: Sandbox, place: Path) -> None:
    watch = await sandbox.files.watch(str(place))
    await sandbox.kill()
    with anyio.fail_after(5):
        assert [event async for event in watch] == []
    await watch.close()
    with pytest.raises(SandboxDied):
        await sandbox.files.read("/etc/passwd")


@pytest.mark.parametrize(
    "entry",
    [None, [], {"name": "x"}, {"name": 1, "path": "", "type": "", "size": 0, "mode": 0}],
)
def test_an_entry_of_the_wrong_shape_is_a_broken_guest(entry: object) -> None:
    from atoll.engine.file_worker import entry_from_wire

    with pytest.raises(GuestBroken):
        entry_from_wire(entry)
