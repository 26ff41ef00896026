"""An engine's metrics: samples of every sandbox, history, totals, and what Prometheus reads."""

from __future__ import annotations

import os
import signal
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from engine_kit import open_descriptors
from prometheus_client.parser import text_string_to_metric_families

from atoll.engine import Engine, History, Monitoring, serve_metrics
from atoll.engine.metrics import Collector, Series
from atoll.launch import LaunchedSandbox
from atoll.launch.fake import FakeLauncher
from atoll.model import Limits, SandboxDied, Template, UnknownTemplate
from atoll.testing.clock import SettableClock
from atoll.testing.waiting import eventually

pytestmark = pytest.mark.anyio


@pytest.fixture
async def clock() -> SettableClock:
    return SettableClock()


@pytest.fixture
async def timed(place: Path, launcher: FakeLauncher, clock: SettableClock) -> AsyncIterator[Engine]:
    monitoring = Monitoring(keep=3, history=History(step=2.0))
    async with Engine(
        data_dir=place / "data", launcher=launcher, clock=clock, monitoring=monitoring
    ) as engine:
        yield engine


def values(text: bytes) -> dict[str, float]:
    return {
        sample.name + "".join(f" {value}" for _, value in sorted(sample.labels.items())): (
            sample.value
        )
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


async def test_every_sandbox_is_sampled_every_second(
    timed: Engine, template: Template, clock: SettableClock, launcher: FakeLauncher
) -> None:
    one, two = [await timed.create(template, limits=Limits(cpu=0.5)) for _ in range(2)]
    start = clock.time()
    for second in range(1, 3):
        launcher.sandboxes[0].usage = replace(launcher.sandboxes[0].usage, cpu_time=second * 0.25)
        await clock.advance(1)
    samples = await one.metrics_history()
    assert [s.timestamp - start for s in samples] == [1, 2]
    assert [s.cpu_percent for s in samples] == [None, 25.0]
    assert samples[0].cpu_count == 0.5
    assert len(await two.metrics_history()) == 2
    assert [s.timestamp for s in await one.metrics_history(start + 1.5)] == [start + 2]
    assert samples[0].network_sent is None


async def test_what_the_ring_has_dropped_comes_from_the_disk_also_after_the_end(
    timed: Engine, template: Template, clock: SettableClock
) -> None:
    sandbox = await timed.create(template)
    start = clock.time()
    for _ in range(7):
        await clock.advance(1)
    # The ring has 5, 6, 7; the disk every second one.
    expected = [1, 3, 5, 6, 7]
    assert [s.timestamp - start for s in await sandbox.metrics_history()] == expected
    assert [s.timestamp - start for s in await sandbox.metrics_history(start + 2, start + 6)] == [
        3, 5, 6,
    ]  # fmt: skip
    await sandbox.kill()
    assert [s.timestamp - start for s in await sandbox.metrics_history()] == expected


class Ending:
    """A sandbox whose guest has just ended."""

    def __init__(self) -> None:
        self.id = "ending"
        self.series = Series(10, 1.0)

    @property
    def launched(self) -> LaunchedSandbox:
        raise SandboxDied("its guest has ended", sandbox_id=self.id)


async def test_a_sandbox_that_is_ending_hides_no_other(
    engine: Engine, template: Template, clock: SettableClock
) -> None:
    ending, healthy = Ending(), await engine.create(template)
    samples = len(await healthy.metrics_history())
    await Collector(Monitoring(), clock, lambda: [ending, healthy]).sample()
    assert len(ending.series) == 0
    assert len(await healthy.metrics_history()) == samples + 1


async def test_the_time_between_samples_is_as_asked(
    place: Path, template: Template, clock: SettableClock
) -> None:
    async with Engine(
        data_dir=place / "data", launcher="fake", clock=clock, monitoring=Monitoring(interval=30)
    ) as engine:
        sandbox = await engine.create(template)
        for _ in range(60):
            await clock.advance(1)
        assert len(await sandbox.metrics_history()) == 2


async def test_totals_count_creates_pool_hits_and_ends_by_reason(
    place: Path, template: Template, clock: SettableClock, launcher: FakeLauncher
) -> None:
    async with Engine(data_dir=place / "data", launcher=launcher, clock=clock, pool=1) as engine:
        template = replace(template, python=None)
        await engine.warm(template)
        pooled = await engine.create(template)
        leased = await engine.create(template, limits=Limits(pids=77), timeout=10)
        walled = await engine.create(template, limits=Limits(wall=20))
        with pytest.raises(UnknownTemplate):
            await engine.create("no-such-template")
        await pooled.kill()
        await clock.advance(10)
        await leased.gone()
        await clock.advance(10)
        await walled.gone()
        found = values(engine.prometheus())
    assert found["atoll_creates_total"] == 3
    assert found["atoll_failed_creates_total"] == 1
    assert found["atoll_pool_hits_total"] == 1
    assert found["atoll_kills_total"] == 1
    assert found["atoll_evictions_total lease"] == 1
    assert found["atoll_evictions_total wall"] == 1
    assert found["atoll_create_seconds_bucket +Inf"] == found["atoll_create_seconds_count"] == 3
    assert found["atoll_create_seconds_sum"] > 0


async def test_a_guest_that_dies_is_an_eviction(engine: Engine, template: Template) -> None:
    sandbox = await engine.create(template)
    os.kill(sandbox.launched.pid, signal.SIGKILL)
    await sandbox.gone()
    assert values(engine.prometheus())["atoll_evictions_total sandbox_died"] == 1


async def test_prometheus_shows_the_latest_sample_of_what_lives_and_nothing_uncounted(
    timed: Engine, template: Template, clock: SettableClock, launcher: FakeLauncher
) -> None:
    sandbox = await timed.create(template)
    launcher.sandboxes[0].usage = replace(launcher.sandboxes[0].usage, memory=4096, cpu_time=2.5)
    await clock.advance(1)
    found = values(timed.prometheus())
    assert found["atoll_sandboxes"] == 1
    assert found[f"atoll_sandbox_memory_bytes {sandbox.id} test"] == 4096
    assert found[f"atoll_sandbox_cpu_seconds_total {sandbox.id} test"] == 2.5
    assert not any("network" in name for name in found)
    await sandbox.kill()
    assert not any(sandbox.id in name for name in values(timed.prometheus()))


async def test_metrics_are_served_on_loopback_alone(engine: Engine, template: Template) -> None:
    await engine.create(template)
    before = open_descriptors()
    with serve_metrics(engine, 0) as port:
        url = f"http://127.0.0.1:{port}/metrics"
        answer = await anyio.to_thread.run_sync(lambda: urllib.request.urlopen(url).read())
        with pytest.raises(urllib.error.HTTPError, match="404") as refused:
            await anyio.to_thread.run_sync(lambda: urllib.request.urlopen(f"{url}/x"))
        refused.value.close()
        silent = await anyio.connect_tcp("127.0.0.1", port)
        addresses = Path("/proc/net/tcp").read_text()
    await silent.aclose()  # which has not kept the block from ending
    await eventually(lambda: open_descriptors() == before)
    assert values(answer)["atoll_sandboxes"] == 1
    listening = [line.split()[1] for line in addresses.splitlines() if f":{port:04X} " in line]
    assert f"0100007F:{port:04X}" in listening
    assert f"00000000:{port:04X}" not in listening
    with pytest.raises(OSError, match="failed"):
        await anyio.connect_tcp("127.0.0.1", port)


async def test_a_history_that_breaks_costs_no_sandbox(
    place: Path, template: Template, clock: SettableClock, caplog: pytest.LogCaptureFixture
) -> None:
    (place / "data/metrics/history.sqlite").mkdir(parents=True)
    async with Engine(
        data_dir=place / "data", launcher="fake", clock=clock,
        monitoring=Monitoring(history=History()),
    ) as engine:  # fmt: skip
        sandbox = await engine.create(template)
        await clock.advance(1)
        assert len(await sandbox.metrics_history()) == 1
    assert "no history of metrics is kept" in caplog.text


async def test_creates_cells_and_processes_are_spans(place: Path) -> None:
    program = Path(__file__).with_name("traces_program.py")
    done = await anyio.run_process([sys.executable, str(program), str(place)], check=False)
    assert done.returncode == 0, done.stderr.decode()
