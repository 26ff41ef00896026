"""Limits: held by the kernel, and a typed result when one is hit."""

from __future__ import annotations

import time
from collections.abc import Callable

import anyio

from atoll.model import (
    DiskFull,
    InvalidArgument,
    InvalidLimit,
    KilledBy,
    Limits,
    ProcessLimitReached,
    SandboxDied,
)
from atoll.testing.contract.case import Case, Subject, raises
from atoll.testing.waiting import eventually

MIB = 1 << 20


async def memory(subject: Subject) -> None:
    code = "b = bytearray(200 << 20)\nfor i in range(0, len(b), 4096): b[i] = 1\nprint('held')"
    async with subject.sandbox(Limits(memory="64M", pids=64)) as sandbox:
        result = await sandbox.commands.run([subject.python, "-I", "-c", code])
        assert "held" not in result.stdout and result.killed_by is KilledBy.MEMORY, result
        assert (await sandbox.commands.run("echo on")).stdout == "on\n"


async def pids(subject: Subject) -> None:
    script = "n=0; while [ $n -lt 60 ]; do sleep 30 & n=$((n+1)); done; echo all; kill $(jobs -p)"
    async with subject.sandbox(Limits(pids=24)) as sandbox:
        result = await sandbox.commands.run(["/bin/bash", "-c", script], timeout=20)
        assert result.killed_by is KilledBy.PIDS or "all" not in result.stdout, result
        assert (await sandbox.commands.run("echo on")).stdout == "on\n"


async def open_files(subject: Subject) -> None:
    async with subject.sandbox(Limits(open_files=77)) as sandbox:
        assert (await sandbox.commands.run("ulimit -n")).stdout == "77\n"
        assert (await sandbox.commands.run("ulimit -Hn")).stdout == "77\n"


async def file_size(subject: Subject) -> None:
    async with subject.sandbox(Limits(file_size="1M", disk="64M")) as sandbox:
        await sandbox.commands.run(f"head -c 2000000 /dev/zero > {subject.home}/big")
        assert (await sandbox.files.stat(f"{subject.home}/big")).size <= MIB


async def disk(subject: Subject) -> None:
    async with subject.sandbox(Limits(disk="8M")) as sandbox:
        result = await sandbox.commands.run(f"head -c 20000000 /dev/zero > {subject.home}/big")
        assert not result.ok
        assert (await sandbox.files.stat(f"{subject.home}/big")).size <= 8 * MIB
        await raises(DiskFull, sandbox.files.write(f"{subject.home}/more", b"x" * (9 * MIB)))


async def cpu(subject: Subject) -> None:
    async with subject.sandbox(Limits(cpu=0.25)) as sandbox:
        before = (await sandbox.metrics()).cpu_time
        started = time.monotonic()
        await sandbox.commands.run("while :; do :; done", timeout=2)
        after = (await sandbox.metrics()).cpu_time
        assert before is not None and after is not None
        assert (after - before) / (time.monotonic() - started) < 0.5


async def output(subject: Subject) -> None:
    async with subject.sandbox(Limits(output="100K")) as sandbox:
        with anyio.fail_after(20):
            result = await sandbox.commands.run("yes", timeout=None)
        assert result.killed_by is KilledBy.OUTPUT
        assert 100_000 <= len(result.stdout) <= 1 << 20


async def wall(subject: Subject) -> None:
    async with subject.sandbox(Limits(wall=0.5)) as sandbox:
        with anyio.fail_after(15):
            await sandbox.gone()
        assert sandbox.killed_by is KilledBy.WALL
        await raises(SandboxDied, sandbox.commands.run("true"))


async def cpu_time(subject: Subject) -> None:
    async with subject.sandbox(Limits(cpu_time=0.5, cpu=1.0)) as sandbox:
        await sandbox.commands.start("while :; do :; done")
        with anyio.fail_after(20):
            await sandbox.gone()
        assert sandbox.killed_by is KilledBy.CPU


async def max_processes(subject: Subject) -> None:
    async with subject.sandbox(Limits(max_processes=2)) as sandbox:
        first = await sandbox.commands.start(["sleep", "60"])
        await sandbox.commands.start(["sleep", "60"])
        await raises(ProcessLimitReached, sandbox.commands.start(["sleep", "60"]))
        await first.kill()
        await eventually(lambda: len(sandbox.commands.list()) == 1)
        await sandbox.commands.start(["sleep", "60"])


async def a_lease_that_is_not_renewed_ends_the_sandbox(subject: Subject) -> None:
    async with subject.sandbox(timeout=0.6) as sandbox:
        await anyio.sleep(0.4)
        sandbox.set_timeout(0.8)
        await anyio.sleep(0.5)
        assert sandbox.is_running(), "a renewed lease holds"
        with anyio.fail_after(10):
            await sandbox.gone()
        assert not sandbox.is_running()


async def nonsense_is_refused_before_anything_is_made(subject: Subject) -> None:
    before = len(subject.engine.list())
    attempts: tuple[Callable[[], Limits], ...] = (
        lambda: Limits(memory=-1),
        lambda: Limits(memory="lots"),
        lambda: Limits(cpu=0),
        lambda: Limits(pids=-5),
    )
    for attempt in attempts:
        try:
            attempt()
        except InvalidLimit:
            continue
        raise AssertionError("a limit that is none was accepted")
    create = subject.engine.create
    await raises(InvalidArgument, create(subject.template, network="allow-all"))
    assert len(subject.engine.list()) == before


CASES = (
    *(
        Case(run.__name__, run, walls=True, needs=frozenset({run.__name__}))
        for run in (memory, pids, cpu, cpu_time, disk)
    ),
    *(
        Case(run.__name__, run)
        for run in (
            open_files,
            file_size,
            output,
            wall,
            max_processes,
            a_lease_that_is_not_renewed_ends_the_sandbox,
            nonsense_is_refused_before_anything_is_made,
        )
    ),
)
