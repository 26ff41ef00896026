"""Everything an engine sees of itself: samples, totals, logs, audit and traces, in one place."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import anyio.to_thread

from atoll.engine.clock import Clock
from atoll.engine.logs.sandbox_log import SandboxLog
from atoll.engine.logs.settings import Logging
from atoll.engine.metrics.collector import Collector
from atoll.engine.metrics.series import Series
from atoll.engine.metrics.settings import Monitoring
from atoll.engine.metrics.totals import Totals
from atoll.engine.sandbox_watch import SandboxWatch
from atoll.engine.tracing import Tracer, traced
from atoll.model import AtollError, SandboxSpec

if TYPE_CHECKING:
    from atoll.engine.metrics.exposition import Exposition
    from atoll.engine.sandbox import Sandbox

_log = logging.getLogger(__name__)


@dataclass
class Creation:
    """One create that is under way; who makes the sandbox says which it is."""

    sandbox: Sandbox | None = None
    from_pool: bool = False
    variables: tuple[str, ...] = ()


class Observation:
    """What one engine measures and tells.

    Args:
        monitoring: what is sampled.
        logs: where the log goes.
        clock: the engine's.
        sandboxes: its clients' sandboxes that live now.
    """

    def __init__(
        self,
        monitoring: Monitoring,
        logs: Logging,
        clock: Clock,
        sandboxes: Callable[[], Iterable[Sandbox]],
    ) -> None:
        self.totals = Totals()
        self.collector = Collector(monitoring, clock, sandboxes)
        self.tracer = Tracer() if monitoring.traces else None
        self._monitoring = monitoring
        self._logs = logs
        self._clock = clock
        self._sandboxes = sandboxes
        self._exposition: Exposition | None = None

    async def open(self, data_dir: Path) -> None:
        """Open the files. Raises OwnerError, OSError: a log cannot be written."""
        await anyio.to_thread.run_sync(self._logs.open)
        try:
            await self.collector.open(data_dir)
        except OSError as error:
            _log.warning("no history of metrics is kept: %s", error)

    async def close(self) -> None:
        """Write what is left, and close the files; may be called twice."""
        await self.collector.close()
        await anyio.to_thread.run_sync(self._logs.close)

    @property
    def exposition(self) -> Exposition:
        """What Prometheus reads."""
        if self._exposition is None:
            # Costs as much as several creates: only for those who ask.
            from atoll.engine.metrics.exposition import Exposition

            self._exposition = Exposition(self.totals, lambda: list(self._sandboxes()))
        return self._exposition

    def series(self, spec: SandboxSpec) -> Series:
        """Where the samples of a new sandbox go."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
        return Series(self._monitoring.keep, min(spec.limits.cpu or cores, cores))

    def watch(self, sandbox: str) -> SandboxWatch:
        """Who tells what a new sandbox does."""
        log = SandboxLog(sandbox, self._logs.sandbox_size, self._clock.time)
        return SandboxWatch(sandbox, log, self.tracer)

    @contextmanager
    def creating(self, template: str) -> Iterator[Creation]:
        """A create for a client goes on inside the block."""
        creation = Creation()
        started = time.perf_counter()
        try:
            with traced(self.tracer, "atoll.create", **{"atoll.template": template}):
                yield creation
        except AtollError as error:
            self.totals.failed_creates += 1
            _log.warning("a create from template %s failed: %s", template, error)
            raise
        if creation.sandbox is not None:
            self._created(creation.sandbox, creation, time.perf_counter() - started)

    def ended(self, sandbox: Sandbox) -> None:
        """A client's sandbox is gone."""
        self.totals.ended(sandbox.ended_by)
        self.collector.forget(sandbox.id)

    def _created(self, sandbox: Sandbox, creation: Creation, seconds: float) -> None:
        self.totals.created(seconds, from_pool=creation.from_pool)
        template = sandbox.spec.template.name
        sandbox.log.act(
            "sandbox.created",
            f"created from template {template}",
            template=template,
            metadata=sandbox.metadata,
            variables=creation.variables,
            from_pool=creation.from_pool,
            milliseconds=round(seconds * 1e3, 3),
        )
