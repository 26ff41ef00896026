"""How many sandboxes: a second, at once, and what each one holds in memory."""

from __future__ import annotations

from contextlib import AsyncExitStack
from time import thread_time
from typing import TYPE_CHECKING

import anyio

from atoll.bench.latency import checked_cell
from atoll.bench.memory import MB, Memory, available, memory_of, processes_beside
from atoll.bench.report import Row
from atoll.bench.samples import Stopwatch, Summary, summarise

if TYPE_CHECKING:
    from atoll import Engine, Sandbox

_LOOK_BACK = 10
_COLLECTIONS = 20
_COLLECT_SECONDS = 5.0


async def memory_rows(engine: Engine, template: str, count: int) -> list[Row]:
    """Private memory of an idle sandbox, first without and then with a Python context."""
    async with AsyncExitStack() as stack:
        before = available()
        sandboxes = [
            await stack.enter_async_context(await engine.create(template)) for _ in range(count)
        ]
        idle = [measured(sandbox) for sandbox in sandboxes]
        idle_whole = (before - available()) / count / MB
        for sandbox in sandboxes:
            await checked_cell(sandbox)
        busy = [measured(sandbox) for sandbox in sandboxes]
        busy_whole = (before - available()) / count / MB
    return [
        memory_row("memory_idle", "an idle sandbox, no context", idle, idle_whole),
        memory_row("memory_context", "a sandbox with one Python context", busy, busy_whole),
    ]


def measured(sandbox: Sandbox) -> Memory:
    """What the processes of `sandbox` hold now."""
    if sandbox.info.pid is None:
        raise RuntimeError("this launcher does not say which process is the guest")
    return memory_of(processes_beside(sandbox.info.pid))


def memory_row(key: str, what: str, taken: list[Memory], whole: float) -> Row:
    """Private memory is the figure; PSS and what the whole machine lost are in the note."""
    share = summarise([memory.proportional / MB for memory in taken]).median
    note = f"PSS {share:.1f} MB; the whole machine's memory fell by {whole:.1f} MB for each"
    private = summarise([memory.private / MB for memory in taken])
    return Row(key, f"private memory of {what}", "MB", private, note=note)


async def sustained_row(engine: Engine, template: str, *, seconds: float, workers: int) -> Row:
    """Creates and destroys for a while from several tasks; counts what was done in each second."""
    per_second: dict[int, int] = {}
    watch = Stopwatch()

    async def work() -> None:
        while watch.ms < seconds * 1e3:
            sandbox = await engine.create(template)
            await sandbox.kill()
            second = int(watch.ms // 1e3)
            per_second[second] = per_second.get(second, 0) + 1

    async with anyio.create_task_group() as tasks:
        for _ in range(workers):
            tasks.start_soon(work)
    whole_seconds = [float(per_second.get(second, 0)) for second in range(int(seconds))]
    what = f"`{template}` sandboxes created and destroyed"
    note = f"{seconds:.0f} s, {workers} tasks"
    return Row("sustained", what, "/s", summarise(whole_seconds), note=note)


async def alive_rows(engine: Engine, template: str, count: int) -> tuple[list[Row], list[Row]]:
    """`count` sandboxes at once, each with a context of its own state, all asked at the end."""
    creates: list[float] = []
    async with AsyncExitStack() as stack:
        sandboxes = []
        for number in range(count):
            watch = Stopwatch()
            sandbox = await stack.enter_async_context(await engine.create(template))
            creates.append(watch.ms)
            await sandbox.run_code(f"mine = {number}")
            sandboxes.append(sandbox)
        answers = [
            (await sandbox.run_code("mine")).text == str(number)
            for number, sandbox in enumerate(sandboxes)
        ]
        collecting = await collect_row(engine, count)
    share = 100.0 * sum(answers) / count
    early, late = creates[_LOOK_BACK : 3 * _LOOK_BACK], creates[-2 * _LOOK_BACK :]
    rows = [
        Row("alive_create", f"create with {count:,} alive", "ms", summarise(late)),
        Row(
            "alive_answers",
            f"of {count:,} alive, how many still hold their own variable",
            "%",
            Summary(share, share, share, count),
        ),
        collecting,
    ]
    return rows, [Row("alive_at_10", "create with 10 alive", "ms", summarise(early))]


async def collect_row(engine: Engine, alive: int) -> Row:
    """CPU time that sampling 1,000 sandboxes every five seconds takes, in percent of a core."""
    shares = []
    for _ in range(_COLLECTIONS):
        before = thread_time()
        await engine.observation.collector.sample()
        spent = thread_time() - before
        shares.append(100 * spent / _COLLECT_SECONDS * 1000 / alive)
    what = f"metrics of 1,000 sandboxes every {_COLLECT_SECONDS:.0f} s"
    note = f"measured with {alive:,} alive; everything that the engine's thread does meanwhile"
    return Row("collect", what, "% of a core", summarise(shares), note=note)
