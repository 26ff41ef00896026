"""Spare sandboxes: handed over at once, refilled behind the caller's back, never in the way."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from atoll.engine import Engine
from atoll.launch.fake import FakeLauncher, FakeSandbox
from atoll.model import Limits, SandboxSpec, Template, TemplateError
from atoll.testing.waiting import eventually

pytestmark = pytest.mark.anyio


class SlowLauncher(FakeLauncher):
    """Lets tests hold launches back, or make them fail."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.gate = anyio.Event()
        self.gate.set()
        self.launches = 0
        self.fail = False

    async def launch(self, spec: SandboxSpec) -> FakeSandbox:
        self.launches += 1
        await self.gate.wait()
        if self.fail:
            raise TemplateError("no")
        return await super().launch(spec)


@pytest.fixture
def template(place: Path) -> Template:
    """Without Python: what is forked ahead here is the sandbox alone."""
    return Template("test", (), cwd=str(place))


@pytest.fixture
async def slow(place: Path) -> SlowLauncher:
    return SlowLauncher(place)


@pytest.fixture
async def pooled(place: Path, slow: SlowLauncher) -> AsyncIterator[Engine]:
    async with Engine(data_dir=place / "data", launcher=slow, pool=2) as engine:
        yield engine


async def settled(launcher: FakeLauncher, count: int) -> None:
    await eventually(lambda: len(launcher.sandboxes) == count)


async def test_a_warm_pool_hands_over_and_refills(
    pooled: Engine, template: Template, slow: SlowLauncher
) -> None:
    await pooled.warm(template)
    assert (slow.launches, pooled.list()) == (2, [])
    slow.gate = anyio.Event()  # a create that launches would wait for ever
    with anyio.fail_after(5):
        first = await pooled.create(template, env={"A": "first"}, metadata={"n": "1"})
        second = await pooled.create(template, env={"A": "second"})
    slow.gate.set()
    assert (await first.commands.run("echo $A")).stdout == "first\n"
    assert (await second.commands.run("echo $A")).stdout == "second\n"
    assert [info.id for info in pooled.list()] == [first.id, second.id]
    await settled(slow, 4)


async def test_an_empty_pool_does_not_block_a_create(
    pooled: Engine, template: Template, slow: SlowLauncher
) -> None:
    assert (await (await pooled.create(template)).commands.run(["true"])).ok
    await settled(slow, 3)


async def test_spares_are_for_their_own_limits_only(
    pooled: Engine, template: Template, slow: SlowLauncher
) -> None:
    await pooled.warm(template, Limits(pids=10))
    sandbox = await pooled.create(template, limits=Limits(pids=20))
    assert sandbox.spec.limits.pids == 20
    await settled(slow, 5)


async def test_a_dead_spare_is_not_handed_over(
    pooled: Engine, template: Template, slow: SlowLauncher
) -> None:
    await pooled.warm(template)
    for fake in list(slow.sandboxes):
        os.kill(fake.pid, signal.SIGKILL)
    await settled(slow, 0)
    assert (await (await pooled.create(template)).commands.run(["true"])).ok


async def test_a_pool_that_cannot_be_filled_harms_nobody(
    pooled: Engine, template: Template, slow: SlowLauncher
) -> None:
    sandbox = await pooled.create(template)
    await settled(slow, 3)
    slow.fail = True
    spares = [await pooled.create(template), await pooled.create(template)]
    with pytest.raises(TemplateError):
        await pooled.create(template)
    assert all([(await box.commands.run(["true"])).ok for box in (sandbox, *spares)])


async def test_only_some_kinds_are_kept(
    pooled: Engine, slow: SlowLauncher, template: Template
) -> None:
    for pids in range(10, 16):
        await pooled.warm(template, Limits(pids=pids))
    await settled(slow, 8)
