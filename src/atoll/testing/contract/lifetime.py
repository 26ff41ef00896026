"""Life and death: what is made is removed, and what is ended stays ended."""

from __future__ import annotations

import os
import select
import signal

import anyio

from atoll.engine import Engine, Sandbox
from atoll.model import Limits, SandboxDied, SandboxNotFound
from atoll.testing.contract.case import Case, Subject, raises
from atoll.testing.waiting import eventually

_HARD_TO_END = (
    "trap '' TERM HUP INT; (setsid sleep 600 &); setsid sh -c 'sleep 600 & sleep 600' & "
    "kill -STOP $$; sleep 600"
)


async def _spoil(sandbox: Sandbox) -> None:
    """Leave whatever is hard to remove in a sandbox that is about to be killed."""
    await sandbox.commands.start(_HARD_TO_END)
    await sandbox.commands.run("mkdir -p /tmp/a/b/c; mkfifo /tmp/f; ln -s / /tmp/l; touch /tmp/x")


async def _use(subject: Subject, engine: Engine, count: int) -> None:
    for _ in range(count):
        sandbox = await subject.create(engine)
        await _spoil(sandbox)
        await sandbox.kill(grace=0)


async def kill_leaves_nothing(subject: Subject) -> None:
    async with subject.make_engine() as engine:
        # The first ones start zygotes and fill what is kept ready for the next.
        await _use(subject, engine, 8)
        before = await subject.settled()
        await _use(subject, engine, 12)
        await subject.as_before(before)


async def closing_an_engine_leaves_nothing(subject: Subject) -> None:
    before = await subject.settled()
    async with subject.make_engine() as engine:
        for _ in range(3):
            await _spoil(await subject.create(engine))
    await subject.as_before(before)


async def a_cancelled_create_leaves_nothing(subject: Subject) -> None:
    async with subject.make_engine() as engine:
        await _use(subject, engine, 4)
        before = await subject.settled()
        for milliseconds in (0, 1, 2, 3, 4, 6, 8, 12):
            with anyio.move_on_after(milliseconds / 1000):
                sandbox = await subject.create(engine)
                await sandbox.kill(grace=0)
        await eventually(lambda: not engine.list())
        await subject.as_before(before)


async def an_ended_sandbox_stays_ended(subject: Subject) -> None:
    sandbox = await subject.create(subject.engine)
    handle = await sandbox.commands.start(["sleep", "60"])
    assert await subject.engine.get(sandbox.id) is sandbox
    assert await sandbox.kill(grace=0)
    assert not await sandbox.kill()
    assert not sandbox.is_running()
    await raises(SandboxDied, sandbox.commands.run("true"))
    await raises(SandboxDied, sandbox.files.read("/etc/hosts"))
    await raises(SandboxDied, handle.wait())
    await raises(SandboxNotFound, subject.engine.get(sandbox.id))


async def a_guest_that_has_ended_uses_nothing(subject: Subject) -> None:
    async with subject.sandbox() as sandbox:
        guest = os.pidfd_open(sandbox.launched.pid)
        try:
            signal.pidfd_send_signal(guest, signal.SIGKILL)
            # Waited for without the loop: the engine has not heard of its end yet.
            assert select.select([guest], [], [], 10)[0], "it outlived SIGKILL"
        finally:
            os.close(guest)
        await raises(SandboxDied, sandbox.metrics())
        await raises(SandboxDied, sandbox.commands.run("true"))


async def pause_stops_everything_and_resume_goes_on(subject: Subject) -> None:
    path = f"{subject.home}/ticks"
    async with subject.sandbox() as sandbox:
        await sandbox.commands.start(f"while :; do echo >> {path}; sleep 0.01; done")
        await anyio.sleep(0.2)
        used = (await sandbox.metrics()).cpu_time
        await sandbox.pause()
        await anyio.sleep(0.1)
        first = (await sandbox.metrics()).cpu_time
        await anyio.sleep(0.3)
        second = (await sandbox.metrics()).cpu_time
        assert first == second, f"it ran while it was paused: {used}, {first}, {second}"
        await sandbox.resume()
        before = (await sandbox.files.stat(path)).size
        await anyio.sleep(0.3)
        assert (await sandbox.files.stat(path)).size > before


async def metrics_are_the_kernels(subject: Subject) -> None:
    code = "b = bytearray(40 << 20)\nfor i in range(0, len(b), 4096): b[i] = 1\ninput()"
    async with subject.sandbox(Limits(memory="256M")) as sandbox:
        before = await sandbox.metrics()
        handle = await sandbox.commands.start([subject.python, "-I", "-c", code], stdin=True)
        assert before.memory is not None and before.pids is not None
        floor = before.memory + (35 << 20)

        async def is_charged() -> bool:
            return ((await sandbox.metrics()).memory or 0) >= floor

        await eventually(is_charged, 15)
        during = await sandbox.metrics()
        assert during.pids is not None and during.pids > before.pids
        assert during.memory_peak is None or during.memory_peak >= floor
        await handle.kill()


async def many_sandboxes_are_made_at_once(subject: Subject) -> None:
    answers: list[str] = []

    async def one(number: int) -> None:
        async with subject.sandbox() as sandbox:
            answers.append((await sandbox.commands.run(f"echo {number}")).stdout.strip())

    async with anyio.create_task_group() as tasks:
        for number in range(12):
            tasks.start_soon(one, number)
    assert sorted(answers, key=int) == [str(number) for number in range(12)]


CASES = (
    *(
        Case(run.__name__, run)
        for run in (
            an_ended_sandbox_stays_ended,
            many_sandboxes_are_made_at_once,
        )
    ),
    Case("kill_leaves_nothing", kill_leaves_nothing, walls=True),
    Case("a_cancelled_create_leaves_nothing", a_cancelled_create_leaves_nothing, walls=True),
    Case("a_guest_that_has_ended_uses_nothing", a_guest_that_has_ended_uses_nothing, walls=True),
    Case("closing_an_engine_leaves_nothing", closing_an_engine_leaves_nothing, walls=True),
    Case(
        "pause_stops_everything_and_resume_goes_on",
        pause_stops_everything_and_resume_goes_on,
        walls=True,
        needs=frozenset({"cpu"}),
    ),
    Case(
        "metrics_are_the_kernels",
        metrics_are_the_kernels,
        walls=True,
        needs=frozenset({"memory"}),
    ),
)
