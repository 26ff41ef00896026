"""What is seen of a sandbox from outside: samples, counters, its log."""

from __future__ import annotations

from atoll.model import Limits, MetricsSample
from atoll.testing.contract.case import Case, Subject
from atoll.testing.waiting import eventually


async def what_is_throttled_and_killed_is_counted(subject: Subject) -> None:
    spin = "import time\nend = time.time() + 0.8\nwhile time.time() < end: pass"
    eat = "b = bytearray(200 << 20)\nfor i in range(0, len(b), 4096): b[i] = 1"
    async with subject.sandbox(Limits(memory="64M", cpu=0.2)) as sandbox:
        before = await sandbox.metrics()
        assert (before.memory_limit, before.oom_kills) == (64 << 20, 0), before
        await sandbox.commands.run([subject.python, "-I", "-c", spin])
        slowed = await sandbox.metrics()
        assert (slowed.throttled_time or 0) > 0.1 and (slowed.throttled_periods or 0) > 1, slowed
        await sandbox.commands.run([subject.python, "-I", "-c", eat])
        killed = await sandbox.metrics()
        assert (killed.oom_kills or 0) >= 1, killed


async def files_are_counted(subject: Subject) -> None:
    async with subject.sandbox(Limits(disk="64M")) as sandbox:
        before = await sandbox.metrics()
        script = f"cd {subject.home}; head -c 4000000 /dev/zero >big; touch $(seq 1 50)"
        assert (await sandbox.commands.run(script)).ok
        after = await sandbox.metrics()
        assert (after.disk or 0) - (before.disk or 0) >= 4_000_000, (before, after)
        assert (after.inodes or 0) - (before.inodes or 0) >= 51, (before, after)
        assert after.disk_total == 64 << 20 and after.inodes_total, after


async def a_busy_sandbox_is_seen_to_be_busy(subject: Subject) -> None:
    async with subject.sandbox(Limits(cpu=0.5)) as sandbox:
        handle = await sandbox.commands.start([subject.python, "-I", "-c", "while True: pass"])

        def busy(sample: MetricsSample) -> bool:
            return sample.cpu_percent is not None and 20 < sample.cpu_percent < 80

        async def seen() -> bool:
            return any(map(busy, await sandbox.metrics_history()))

        await eventually(seen, seconds=30)
        await handle.kill()


async def the_log_has_what_was_written(subject: Subject) -> None:
    async with subject.sandbox() as sandbox:
        await sandbox.commands.run("echo out; echo err >&2")
        found = [entry async for entry in sandbox.logs()]
    written = {entry.stream: entry.message for entry in found if entry.stream}
    assert written == {"stdout": "out\n", "stderr": "err\n"}, found
    assert [entry.event for entry in found if entry.event][:2] == [
        "sandbox.created",
        "process.started",
    ], found


CASES = (
    Case(
        "what_is_throttled_and_killed_is_counted",
        what_is_throttled_and_killed_is_counted,
        walls=True,
        needs=frozenset({"memory", "cpu"}),
    ),
    Case("files_are_counted", files_are_counted, walls=True, needs=frozenset({"disk"})),
    Case(
        "a_busy_sandbox_is_seen_to_be_busy",
        a_busy_sandbox_is_seen_to_be_busy,
        walls=True,
        needs=frozenset({"cpu"}),
    ),
    Case("the_log_has_what_was_written", the_log_has_what_was_written),
)
