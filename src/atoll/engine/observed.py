"""The part of a sandbox that tells what it uses and what it has done."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator

from atoll.engine.logs.sandbox_log import LogEntry
from atoll.engine.observation import Observation
from atoll.launch import LaunchedSandbox
from atoll.model import Metrics, MetricsSample, SandboxSpec


class Observed(ABC):
    """Metrics and logs of one sandbox.

    Attributes:
        series: its latest samples.
        watch: is told what happens to it.
        ended_by: why it ended: ``killed``, ``lease``, a limit or what broke; empty while it lives.
    """

    def __init__(
        self, launched: LaunchedSandbox, spec: SandboxSpec, observation: Observation
    ) -> None:
        self.id = spec.id
        self.spec = spec
        self.launched = launched
        self.series = observation.series(spec)
        self.watch = observation.watch(spec.id)
        self.log = self.watch.log
        self.ended_by = ""
        self._observation = observation

    @abstractmethod
    def require_alive(self) -> None:
        """Raise what ended it, if it has ended."""

    async def metrics(self) -> Metrics:
        """What it uses now, as the kernel counts it. Raises SandboxDied."""
        self.require_alive()
        return self.launched.metrics()

    async def metrics_history(
        self, start: float | None = None, end: float | None = None
    ) -> list[MetricsSample]:
        """What it used from `start` to `end`, in seconds since the epoch; oldest first.

        The last minutes come from memory, what is older from the history on disk, if the engine
        keeps one (`Monitoring`). Also after its end.
        """
        return await self._observation.collector.between(self, start, end)

    def logs(self, *, follow: bool = False, since: int = 0) -> AsyncIterator[LogEntry]:
        """Its log: what its processes wrote and what happened to it, oldest first.

        Args:
            follow: go on with what comes, until it ends.
            since: the number of the first entry that is wanted.
        """
        return self.log.read(follow=follow, since=since)
