"""Directories between this machine and a sandbox, as a stream of tar."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, BinaryIO

import anyio
import anyio.to_thread

from atoll.cli.unpack import Unpacker
from atoll.model import FileError, InvalidArgument, SandboxError

if TYPE_CHECKING:
    from atoll.engine.owner_client import Owners, RemoteProcess

_PIECE = 1 << 16


async def tree_out(
    owners: Owners, sandbox: str, source: str, target: Path, user: str | None
) -> int:
    """Unpack the directory `source` of a sandbox at `target`, below it if it is there."""
    name = PurePosixPath(source).name
    below = await anyio.to_thread.run_sync(target.is_dir)
    into, called = (target, name) if below else (target.parent, target.name)
    command = ["tar", "-C", source, "-cf", "-", "."]
    read, write = os.pipe()
    async with owners.exec(sandbox, command, stdin=False, user=user) as process:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_in_thread, _unpack, os.fdopen(read, "rb"), into / (called or "."))
            size, said = await _pump_out(process, write)
        await _require_success(process, said)
    return size


async def _pump_out(process: RemoteProcess, write: int) -> tuple[int, bytes]:
    size, said = 0, b""
    try:
        async for stream, data in process.output():
            if stream == "stderr":
                said += data
                continue
            size += len(data)
            await anyio.to_thread.run_sync(_write_all, write, data)
    finally:
        os.close(write)
    return size, said


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


async def _in_thread(work: Callable[[BinaryIO, Path], None], file: BinaryIO, path: Path) -> None:
    await anyio.to_thread.run_sync(work, file, path)


def _unpack(file: BinaryIO, into: Path) -> None:
    with file:
        try:
            Unpacker(into).run(file)
        except (tarfile.TarError, OSError) as error:
            raise InvalidArgument(f"what came out cannot be unpacked at {into}: {error}") from None
        finally:
            while file.read(_PIECE):
                continue  # the other end must not meet a closed pipe


async def tree_in(owners: Owners, sandbox: str, source: Path, target: str, user: str | None) -> int:
    """Copy the directory `source` into a sandbox as `target`."""
    made = ["mkdir", "-p", target]
    async with owners.exec(sandbox, made, stdin=False, user=user) as process:
        await _require_success(process, b"")
    read, write = os.pipe()
    command = ["tar", "-C", target, "--no-same-owner", "-xf", "-"]
    async with owners.exec(sandbox, command, user=user) as process:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_in_thread, _pack, os.fdopen(write, "wb"), source)
            size = await _pump_in(process, read)
        await _require_success(process, b"")
    return size


async def _pump_in(process: RemoteProcess, read: int) -> int:
    size = 0
    try:
        while data := await anyio.to_thread.run_sync(os.read, read, _PIECE):
            size += len(data)
            await process.send(data)
        await process.close_input()
    finally:
        os.close(read)
    return size


def _pack(file: BinaryIO, source: Path) -> None:
    with file, tarfile.open(fileobj=file, mode="w|") as archive:
        archive.add(source, arcname=".")


async def _require_success(process: RemoteProcess, said: bytes) -> None:
    result = await process.wait()
    if result.killed_by is not None:
        raise SandboxError(
            f"the copy was ended by the sandbox's limit {result.killed_by.value}",
            hint="copy file by file: a single file is not bound by the limit of a command's output",
        )
    if result.exit_code != 0:
        lines = (said.decode("utf-8", "replace") or result.stderr).strip().splitlines()
        reason = lines[-1] if lines else f"exit code {result.exit_code}"
        raise (SandboxError if result.signal else FileError)(f"tar in the sandbox: {reason}")
