"""The life of sandboxes: leases, limits in time, pause, ends, cancellation, two engines."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from atoll.engine import Engine, Sandbox
from atoll.launch.fake import FakeLauncher
from atoll.model import (
    InvalidArgument,
    KilledBy,
    Limits,
    LimitUnavailable,
    Metrics,
    OwnerError,
    SandboxDied,
    SandboxError,
    SandboxNotFound,
    SandboxSpec,
    SandboxState,
    Template,
    UnknownTemplate,
)
from atoll.testing.clock import SettableClock

pytestmark = pytest.mark.anyio


@pytest.fixture
async def clock() -> SettableClock:
    return SettableClock()


@pytest.fixture
async def timed(place: Path, launcher: FakeLauncher, clock: SettableClock) -> AsyncIterator[Engine]:
    async with Engine(data_dir=place / "data", launcher=launcher, clock=clock) as engine:
        yield engine


async def test_a_sandbox_ends_when_its_lease_runs_out(
    timed: Engine, template: Template, clock: SettableClock
) -> None:
    sandbox = await timed.create(template, timeout=300)
    assert sandbox.info.expires_at == clock.time() + 300
    await clock.advance(299)
    assert sandbox.is_running()
    await clock.advance(1)
    await sandbox.gone()
    with pytest.raises(SandboxDied, match="lease"):
        await sandbox.commands.run(["true"])
    assert timed.list() == []


async def test_a_lease_is_renewed_shortened_and_dropped(
    timed: Engine, template: Template, clock: SettableClock
) -> None:
    long, short, free = [await timed.create(template, timeout=100) for _ in range(3)]
    long.set_timeout(1000)
    short.set_timeout(10)
    free.set_timeout(None)
    await clock.advance(10)
    await short.gone()
    await clock.advance(500)
    assert [info.id for info in timed.list()] == [long.id, free.id]
    for wrong in (0, -1, True, "10", float("nan")):
        with pytest.raises(InvalidArgument):
            long.set_timeout(wrong)  # type: ignore[arg-type]


async def test_wall_time_ends_the_sandbox_and_says_so(
    timed: Engine, template: Template, clock: SettableClock
) -> None:
    sandbox = await timed.create(template, limits=Limits(wall=60))
    handle = await sandbox.commands.start(["sleep", "1000"])
    await clock.advance(60)
    result = await handle.wait()
    assert (result.killed_by, result.exit_code) == (KilledBy.WALL, 137)
    assert sandbox.killed_by is KilledBy.WALL
    await sandbox.gone()


async def test_cpu_time_is_looked_at_when_it_can_be_used_up(
    timed: Engine, template: Template, clock: SettableClock, launcher: FakeLauncher
) -> None:
    sandbox = await timed.create(template, limits=Limits(cpu=2.0, cpu_time=10))
    handle = await sandbox.commands.start(["sleep", "1000"])
    fake = launcher.sandboxes[0]
    fake.usage = replace(fake.usage, cpu_time=9.0)
    await clock.advance(5)
    assert sandbox.is_running()
    fake.usage = replace(fake.usage, cpu_time=10.5)
    await clock.advance(0.5)
    assert (await handle.wait()).killed_by is KilledBy.CPU


async def test_cpu_time_that_nothing_counts_is_refused(place: Path, template: Template) -> None:
    class Blind(FakeLauncher):
        async def launch(self, spec: SandboxSpec) -> object:  # type: ignore[override]
            sandbox = await super().launch(spec)
            sandbox.usage = Metrics(None, None, None, None, None, None)
            return sandbox

    launcher = Blind(place)
    async with Engine(data_dir=place / "data", launcher=launcher) as engine:  # type: ignore[arg-type]
        with pytest.raises(LimitUnavailable):
            await engine.create(template, limits=Limits(cpu_time=1))
        assert launcher.sandboxes == []


async def test_memory_that_ends_the_guest_is_named(
    timed: Engine, template: Template, launcher: FakeLauncher
) -> None:
    sandbox = await timed.create(template)
    handle = await sandbox.commands.start(["sleep", "100"])
    launcher.sandboxes[0].breached = KilledBy.MEMORY
    os.kill(sandbox.launched.pid, 9)
    assert (await handle.wait()).killed_by is KilledBy.MEMORY
    await sandbox.gone()


async def test_pause_and_resume(sandbox: Sandbox) -> None:
    await sandbox.pause()
    assert sandbox.info.state is SandboxState.PAUSED
    with pytest.raises(SandboxError, match="paused"):
        await sandbox.files.exists("/")
    await sandbox.resume()
    assert await sandbox.files.exists("/")
    await sandbox.pause()
    assert await sandbox.kill()


async def test_what_is_told_of_a_sandbox(engine: Engine, template: Template) -> None:
    sandbox = await engine.create(template, metadata={"a": "b"}, env={"C": "d"})
    info = sandbox.info
    assert engine.list() == [info]
    assert (info.template, info.metadata, info.launcher) == ("test", {"a": "b"}, "fake")
    assert (await sandbox.commands.run("echo $C")).stdout == "d\n"
    assert (await sandbox.metrics()).pids == 1
    assert await engine.get(sandbox.id) is sandbox
    assert await engine.kill(sandbox.id)
    assert not await engine.kill(sandbox.id)
    assert not await sandbox.kill()
    with pytest.raises(SandboxNotFound):
        await engine.get(sandbox.id)
    assert sandbox.info.state is SandboxState.ENDED


async def test_kill_gives_commands_their_grace(sandbox: Sandbox, place: Path) -> None:
    line = f"trap 'echo bye > {place}/bye; exit' TERM; echo ready; while :; do sleep 0.01; done"
    handle = await sandbox.commands.start(line)
    async for _ in handle:
        break
    await sandbox.kill()
    assert (place / "bye").read_text() == "bye\n"


async def test_leaving_the_block_ends_it(engine: Engine, template: Template) -> None:
    with pytest.raises(LookupError):
        async with await engine.create(template) as sandbox:
            raise LookupError
    assert not sandbox.is_running()
    assert engine.list() == []


async def test_the_end_of_the_engine_ends_all(place: Path, template: Template) -> None:
    launcher = FakeLauncher(place)
    async with Engine(data_dir=place / "data", launcher=launcher) as engine:
        sandboxes = [await engine.create(template) for _ in range(5)]
        handle = await sandboxes[0].commands.start(["sleep", "100"])
    assert launcher.sandboxes == []
    with pytest.raises(SandboxDied):
        await handle.wait()
    with pytest.raises(InvalidArgument, match="not running"):
        await engine.create(template)
    assert list((place / "data" / "owners").iterdir()) == []


async def test_a_cancelled_create_leaves_nothing(place: Path, template: Template) -> None:
    launcher = FakeLauncher(place)
    async with Engine(data_dir=place / "data", launcher=launcher) as engine:
        for delay in (0, 0.0005, 0.001, 0.002, 0.005):
            with anyio.move_on_after(delay) as scope:
                await engine.create(template)
            if scope.cancelled_caught:
                assert launcher.sandboxes == []
            for info in engine.list():
                await engine.kill(info.id)


async def test_a_bad_lease_leaves_no_sandbox(engine: Engine, template: Template) -> None:
    with pytest.raises(InvalidArgument):
        await engine.create(template, timeout=-1)
    assert engine.list() == []


async def test_bad_input_is_a_typed_error(engine: Engine, template: Template) -> None:
    with pytest.raises(UnknownTemplate):
        await engine.create("no-such-template")
    for network in ("full", "egress", {"no_such_field": 1}):
        with pytest.raises(InvalidArgument):
            await engine.create(template, network=network)
    with pytest.raises(InvalidArgument):
        await engine.create(template, metadata={"a": 1})  # type: ignore[dict-item]
    with pytest.raises(InvalidArgument):
        await engine.create(template, env={"A=": "x"})
    with pytest.raises(InvalidArgument):
        Engine(pool=-1)
    assert engine.list() == []


async def test_a_sandbox_can_end_in_another_task_than_it_began(
    place: Path, template: Template
) -> None:
    engine = Engine(data_dir=place / "data", launcher="fake")
    with anyio.fail_after(20):
        await engine.start()
        sandbox = await engine.create(template)
        engine.end_with(sandbox)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(sandbox.kill)
    await engine.close()


async def test_an_engine_that_cannot_start_leaves_nothing(place: Path) -> None:
    engine = Engine(data_dir=place / "data", launcher="no-such-launcher")
    with pytest.raises(InvalidArgument, match="no-such-launcher"):
        await engine.start()
    assert list((place / "data" / "owners").iterdir()) == []
    (place / "file").touch()
    with pytest.raises(OwnerError, match="cannot be used"):
        await Engine(data_dir=place / "file", launcher="fake").start()


async def test_one_owner_name_is_held_once(place: Path) -> None:
    async with Engine(data_dir=place / "data", launcher="fake", owner="daemon"):
        with pytest.raises(OwnerError, match="daemon"):
            await Engine(data_dir=place / "data", launcher="fake", owner="daemon").start()
    async with Engine(data_dir=place / "data", launcher="fake", owner="daemon"):
        pass
