"""The totals and the latest samples as Prometheus reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from atoll.engine.metrics.series import Series
from atoll.engine.metrics.totals import BOUNDS, Totals
from atoll.model import SandboxSpec


class Shown(Protocol):
    """A sandbox, as far as it is shown."""

    @property
    def id(self) -> str:
        """Its id."""

    @property
    def spec(self) -> SandboxSpec:
        """What it was made from."""

    @property
    def series(self) -> Series:
        """Its samples."""


@dataclass(frozen=True)
class _Family:
    field: str
    name: str
    help: str
    counts: bool = False


_OF_SANDBOX = (
    _Family("cpu_time", "cpu_seconds", "CPU time used", counts=True),
    _Family("cpu_percent", "cpu_percent", "CPU used between two samples, in percent of a core"),
    _Family("memory", "memory_bytes", "Memory charged now"),
    _Family("memory_cache", "memory_cache_bytes", "Page cache in it"),
    _Family("memory_peak", "memory_peak_bytes", "The most memory ever charged"),
    _Family("memory_limit", "memory_limit_bytes", "Memory that it may use"),
    _Family("disk", "disk_bytes", "Bytes of its own files"),
    _Family("disk_total", "disk_limit_bytes", "Bytes that its files may take"),
    _Family("inodes", "inodes", "Its own files and directories"),
    _Family("inodes_total", "inodes_limit", "Files and directories that it may have"),
    _Family("pids", "processes", "Processes and threads"),
    _Family("throttled_periods", "throttled_periods", "Times it waited for CPU", counts=True),
    _Family("throttled_time", "throttled_seconds", "Seconds it waited for CPU", counts=True),
    _Family("oom_kills", "oom_kills", "Processes killed for the memory limit", counts=True),
    _Family("network_received", "network_received_bytes", "Bytes received", counts=True),
    _Family("network_sent", "network_sent_bytes", "Bytes sent", counts=True),
    _Family("connections", "connections", "Connections open now"),
)


class Exposition(Collector):
    """Reads an engine when it is asked, also from another thread than the engine's.

    Args:
        totals: of the engine.
        sandboxes: those that live now, as a list of their own.
    """

    def __init__(self, totals: Totals, sandboxes: Callable[[], Iterable[Shown]]) -> None:
        self._totals = totals
        self._sandboxes = sandboxes
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(self)

    def text(self) -> bytes:
        """All of it in the text format."""
        return generate_latest(self.registry)

    def collect(self) -> Iterator[Metric]:
        """See prometheus_client's Collector."""
        alive = list(self._sandboxes())
        totals = self._totals
        yield GaugeMetricFamily("atoll_sandboxes", "Sandboxes that live now", len(alive))
        for name, text, value in (
            ("atoll_creates", "Sandboxes created", totals.creates),
            ("atoll_failed_creates", "Creates that gave no sandbox", totals.failed_creates),
            ("atoll_pool_hits", "Creates answered by a spare sandbox", totals.pool_hits),
            ("atoll_kills", "Sandboxes ended because somebody asked for it", totals.kills),
        ):
            yield CounterMetricFamily(name, text, value)
        evictions = CounterMetricFamily(
            "atoll_evictions", "Sandboxes ended for another reason", labels=["reason"]
        )
        for reason, count in dict(totals.evictions).items():
            evictions.add_metric([reason], count)
        yield evictions
        yield self._latency()
        yield from _of_sandboxes(alive)

    def _latency(self) -> HistogramMetricFamily:
        family = HistogramMetricFamily("atoll_create_seconds", "Time that creates took")
        counted = 0
        buckets = []
        bounds = [str(bound) for bound in BOUNDS] + ["+Inf"]
        for bound, count in zip(bounds, list(self._totals.create_buckets), strict=True):
            counted += count
            buckets.append((bound, counted))
        family.add_metric([], buckets, self._totals.create_seconds)
        return family


def _of_sandboxes(alive: list[Shown]) -> Iterator[Metric]:
    latest = [(sandbox, sandbox.series.last()) for sandbox in alive]
    for shown in _OF_SANDBOX:
        kind = CounterMetricFamily if shown.counts else GaugeMetricFamily
        name = f"atoll_sandbox_{shown.name}"
        family = kind(name, shown.help, labels=["sandbox", "template"])
        for sandbox, sample in latest:
            value = None if sample is None else getattr(sample, shown.field)
            if value is not None:
                family.add_metric([sandbox.id, sandbox.spec.template.name], value)
        yield family
