"""Files through the engine: bytes in and out, a large listing, and how soon a watch tells."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from time import monotonic_ns
from typing import TYPE_CHECKING

import anyio

from atoll.bench.report import Row
from atoll.bench.samples import Step, Stopwatch, Summary, interleave, summarise

if TYPE_CHECKING:
    from atoll import Sandbox

_MB = 1e6
_ENTRIES = 10_000
_TICKS = """
import os, sys, time
for _ in range(int(sys.argv[1])):
    os.close(os.open(f"{sys.argv[2]}/{time.monotonic_ns()}", os.O_CREAT | os.O_WRONLY))
    time.sleep(0.005)
"""
_BURST = """
import os, sys
for n in range(int(sys.argv[1])):
    os.close(os.open(f"{sys.argv[2]}/{n}", os.O_CREAT | os.O_WRONLY))
"""
_PATIENCE = 30.0


def _rate(size: int, ms: float) -> float:
    return size / _MB / (ms / 1e3)


def write_step(sandbox: Sandbox, data: bytes) -> Step:
    """MB/s of one write of `data` into the sandbox."""

    async def once() -> float:
        watch = Stopwatch()
        await sandbox.files.write("/home/user/bulk", data)
        return _rate(len(data), watch.ms)

    return once


def read_step(sandbox: Sandbox, size: int) -> Step:
    """MB/s of reading the same file back; a short read is an error."""

    async def once() -> float:
        watch = Stopwatch()
        content = await sandbox.files.read("/home/user/bulk", format="bytes")
        if len(content) != size:
            raise RuntimeError(f"{len(content)} bytes came back of {size}")
        return _rate(size, watch.ms)

    return once


def host_step(path: Path, data: bytes) -> Step:
    """MB/s of the same write by bare Python on the host's file system."""

    async def once() -> float:
        watch = Stopwatch()
        _write_plainly(path, data)
        return _rate(len(data), watch.ms)

    return once


def _write_plainly(path: Path, data: bytes) -> None:
    path.write_bytes(data)


async def bulk_rows(sandbox: Sandbox, size: int, rounds: int) -> tuple[list[Row], list[Row]]:
    """Write and read in turn with a plain write on the host."""
    data = os.urandom(1 << 20) * (size >> 20)
    with tempfile.TemporaryDirectory() as scratch:
        steps = {
            "write": write_step(sandbox, data),
            "read": read_step(sandbox, len(data)),
            "host": host_step(Path(scratch) / "bulk", data),
        }
        taken = await interleave(steps, rounds=rounds, warm_up=1)
    rows = [
        Row("file_write", f"write {size >> 20} MiB", "MB/s", summarise(taken["write"])),
        Row("file_read", f"read {size >> 20} MiB", "MB/s", summarise(taken["read"])),
    ]
    what = f"write {size >> 20} MiB, bare Python on the host"
    return rows, [Row("host_write", what, "MB/s", summarise(taken["host"]))]


async def list_row(sandbox: Sandbox, rounds: int) -> Row:
    """Listing a directory of 10,000 files."""
    folder = "/home/user/many"
    await sandbox.files.make_dir(folder)
    await _python(sandbox, _BURST, str(_ENTRIES), folder)

    async def once() -> float:
        watch = Stopwatch()
        entries = await sandbox.files.list(folder)
        if len(entries) != _ENTRIES:
            raise RuntimeError(f"{len(entries)} entries were listed of {_ENTRIES}")
        return watch.ms

    taken = await interleave({"list": once}, rounds=rounds, warm_up=2)
    return Row("list_directory", f"list {_ENTRIES:,} files", "ms", summarise(taken["list"]))


async def watch_rows(sandbox: Sandbox, ticks: int) -> list[Row]:
    """Delay from a create inside to its event here, then a burst of creates counted."""
    delays = await _delays(sandbox, ticks)
    seen, overflowed = await _burst(sandbox)
    note = "the overflow was reported" if overflowed else "no overflow"
    burst = Row(
        "watch_complete",
        f"events seen of {_ENTRIES:,} files created in one go",
        "",
        Summary(seen, seen, seen, 1),
        note=note,
    )
    return [Row("watch_delay", "a watch event's delay", "ms", summarise(delays)), burst]


async def _delays(sandbox: Sandbox, ticks: int) -> list[float]:
    folder = "/home/user/ticks"
    await sandbox.files.make_dir(folder)
    delays: list[float] = []
    async with await sandbox.files.watch(folder) as watch, anyio.create_task_group() as tasks:
        tasks.start_soon(_python, sandbox, _TICKS, str(ticks), folder)
        with anyio.fail_after(_PATIENCE):
            async for event in watch:
                if event.type == "create":
                    # Sandbox and host read the same CLOCK_MONOTONIC: the name is the time of birth.
                    delays.append((monotonic_ns() - int(event.path)) / 1e6)
                    if len(delays) == ticks:
                        break
    return delays


async def _burst(sandbox: Sandbox) -> tuple[float, bool]:
    folder = "/home/user/burst"
    await sandbox.files.make_dir(folder)
    seen: set[str] = set()
    overflowed = False
    async with await sandbox.files.watch(folder) as watch, anyio.create_task_group() as tasks:
        tasks.start_soon(_python, sandbox, _BURST, str(_ENTRIES), folder)
        with anyio.move_on_after(_PATIENCE):
            async for event in watch:
                overflowed = overflowed or event.type == "overflow"
                if event.type == "create":
                    seen.add(event.path)
                if len(seen) == _ENTRIES or overflowed:
                    break
    return float(len(seen)), overflowed


async def _python(sandbox: Sandbox, code: str, *arguments: str) -> None:
    result = await sandbox.commands.run(["python3", "-I", "-c", code, *arguments])
    if result.exit_code != 0:
        raise RuntimeError(f"the helper inside failed: {result.stderr}")
