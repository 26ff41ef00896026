"""Files."""

from __future__ import annotations

import os

import anyio

from atoll.model import (
    FileAccessDenied,
    FileNotFound,
    InvalidPath,
    IsADirectory,
    NotADirectory,
    NotARegularFile,
    UnknownUser,
)
from atoll.testing.contract.case import Case, Subject, raises

MIB = 1 << 20


async def what_was_written_is_read(subject: Subject) -> None:
    data = os.urandom(3 * MIB)
    async with subject.sandbox() as sandbox:
        path = f"{subject.home}/a/b/data"
        entry = await sandbox.files.write(path, data)
        assert entry.size == len(data) and entry.type == "file"
        assert await sandbox.files.read(path, format="bytes") == data
        pieces = [piece async for piece in await sandbox.files.read(path, format="stream")]
        assert b"".join(pieces) == data
        await sandbox.files.write(path, "short")
        assert await sandbox.files.read(path) == "short", "an older, longer content is gone"
        assert (await sandbox.commands.run(["cat", path])).stdout == "short"


async def directories_and_entries(subject: Subject) -> None:
    async with subject.sandbox() as sandbox:
        files, top = sandbox.files, f"{subject.home}/top"
        assert await files.make_dir(f"{top}/below")
        assert not await files.make_dir(f"{top}/below")
        await files.write(f"{top}/one", "1")
        await sandbox.commands.run(["ln", "-s", "one", f"{top}/link"])
        names = {entry.name: entry for entry in await files.list(top)}
        assert set(names) == {"below", "one", "link"}
        assert names["link"].symlink_target == "one" and names["below"].type == "dir"
        assert (await files.stat(f"{top}/one")).size == 1
        await files.move(f"{top}/one", f"{top}/two")
        assert not await files.exists(f"{top}/one") and await files.exists(f"{top}/two")
        await files.remove(top)
        assert not await files.exists(top)


async def what_cannot_be_done_is_a_typed_error(subject: Subject) -> None:
    async with subject.sandbox() as sandbox:
        files, home = sandbox.files, subject.home
        await files.write(f"{home}/file", "x")
        await raises(FileNotFound, files.read(f"{home}/none"))
        await raises(FileNotFound, files.stat(f"{home}/none"))
        await raises(IsADirectory, files.read(home))
        await raises(NotADirectory, files.read(f"{home}/file/below"))
        await raises(InvalidPath, files.read("a\0b"))
        await raises(InvalidPath, files.read(""))
        await raises(InvalidPath, files.read("/" + "a" * 5000))
        await raises(UnknownUser, files.read(f"{home}/file", user="nobody-of-this-name"))
        await sandbox.commands.run(["mkfifo", f"{home}/fifo"])
        with anyio.fail_after(10):
            await raises(NotARegularFile, files.read(f"{home}/fifo"))


async def the_user_has_only_its_own_rights(subject: Subject) -> None:
    async with subject.sandbox() as sandbox:
        files = sandbox.files
        await files.write("/root/secret", "s", user="root")
        await raises(FileAccessDenied, files.read("/root/secret"))
        await raises(FileAccessDenied, files.write("/etc/hosts", "x"))
        assert await files.read("/root/secret", user="root") == "s"
        assert (await files.write(f"{subject.home}/mine", "m")).owner == "user"


async def a_deep_tree_is_removed(subject: Subject) -> None:
    code = "import os\nfor _ in range(3000):\n  os.mkdir('d' * 60); os.chdir('d' * 60)"
    async with subject.sandbox() as sandbox:
        top = f"{subject.home}/deep"
        await sandbox.files.make_dir(top)
        made = await sandbox.commands.run([subject.python, "-I", "-c", code], cwd=top)
        assert made.ok, made.stderr
        with anyio.fail_after(30):
            await sandbox.files.remove(top)
        assert not await sandbox.files.exists(top)


async def a_watch_tells_in_order(subject: Subject) -> None:
    async with subject.sandbox() as sandbox:
        top = f"{subject.home}/watched"
        await sandbox.files.make_dir(top)
        async with await sandbox.files.watch(top) as watch:
            for number in range(20):
                await sandbox.files.write(f"{top}/{number}", "x")
            created: list[str] = []
            with anyio.fail_after(15):
                async for event in watch:
                    if event.type == "create":
                        created.append(event.path)
                    if len(created) == 20:
                        break
            assert created == [str(number) for number in range(20)]


async def names_are_bytes(subject: Subject) -> None:
    names = ["ü", "a b", "-rf", "line\nfeed", "quote'\"", "$HOME", "*"]
    async with subject.sandbox() as sandbox:
        top = f"{subject.home}/names"
        for name in names:
            await sandbox.files.write(f"{top}/{name}", name)
        assert sorted(e.name for e in await sandbox.files.list(top)) == sorted(names)
        for name in names:
            assert await sandbox.files.read(f"{top}/{name}") == name


CASES = (
    *(
        Case(run.__name__, run)
        for run in (
            what_was_written_is_read,
            directories_and_entries,
            what_cannot_be_done_is_a_typed_error,
            a_deep_tree_is_removed,
            a_watch_tells_in_order,
            names_are_bytes,
        )
    ),
    Case("the_user_has_only_its_own_rights", the_user_has_only_its_own_rights, walls=True),
)
