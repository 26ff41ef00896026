"""One task samples every sandbox of an engine."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import anyio
import anyio.to_thread

from atoll.engine.clock import Clock
from atoll.engine.metrics.series import Series
from atoll.engine.metrics.settings import Monitoring
from atoll.launch import LaunchedSandbox
from atoll.model import MetricsSample, SandboxError

if TYPE_CHECKING:
    from atoll.engine.metrics.history import HistoryFile

_BATCH = 10
"""Sandboxes sampled before the loop's other work gets its turn: about half a millisecond."""

_SPREAD = 0.5
"""The part of the interval over which many sandboxes are spread: a create must not wait for all."""

_FLUSH_SECONDS = 10.0
_MOST_WAITING = 100_000
"""Samples that wait for the disk; a disk that takes none costs the oldest."""

_log = logging.getLogger(__name__)


class Watched(Protocol):
    """A sandbox, as far as sampling needs it."""

    @property
    def id(self) -> str:
        """Its id."""

    @property
    def launched(self) -> LaunchedSandbox:
        """What knows its numbers."""

    @property
    def series(self) -> Series:
        """Where its samples go."""


class Collector:
    """Samples at a fixed pace; what takes longer than the interval skips beats.

    Args:
        settings: how often, and what is kept.
        clock: the engine's.
        sandboxes: those that live now.
    """

    def __init__(
        self, settings: Monitoring, clock: Clock, sandboxes: Callable[[], Iterable[Watched]]
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._sandboxes = sandboxes
        self._file: HistoryFile | None = None
        self._waiting: list[tuple[str, MetricsSample]] = []
        self._kept_at: dict[str, float] = {}

    async def open(self, data_dir: Path) -> None:
        """Open the history, if one is kept. Raises OSError."""
        if self._settings.history is not None:
            # sqlite3 is imported by those alone who want a history.
            from atoll.engine.metrics.history import DIRECTORY, open_history

            self._file = await anyio.to_thread.run_sync(
                open_history, data_dir / DIRECTORY, self._settings.history
            )

    async def run(self) -> None:
        """Sample until cancelled."""
        due = self._clock.now()
        flushed = due
        while True:
            await self.sample(over=_SPREAD * self._settings.interval)
            if self._file is not None and self._clock.now() - flushed >= _FLUSH_SECONDS:
                flushed = self._clock.now()
                await self.flush()
            now = self._clock.now()
            due = max(due + self._settings.interval, now)
            await self._clock.sleep_until(due)

    async def sample(self, over: float = 0.0) -> None:
        """Take one sample of each sandbox, a few at a time over so many seconds."""
        sandboxes = list(self._sandboxes())
        pause = over * _BATCH / max(1, len(sandboxes))
        for number, sandbox in enumerate(sandboxes, 1):
            try:
                used = sandbox.launched.metrics()
            except (SandboxError, OSError):
                continue  # it is ending: there is nothing left to count
            sample = sandbox.series.add(used, self._clock.now(), self._clock.time())
            if self._file is not None:
                self._keep(sandbox.id, sample)
            if number % _BATCH == 0:
                await anyio.sleep(pause)

    async def between(
        self, sandbox: Watched, start: float | None, end: float | None
    ) -> list[MetricsSample]:
        """The samples of `sandbox` in this time: those in memory, and older ones from the disk."""
        recent = sandbox.series.between(start, end)
        oldest = sandbox.series.between()[:1]
        if self._file is None or (oldest and start is not None and start >= oldest[0].timestamp):
            return recent
        await self.flush()
        until = float("inf") if end is None else end
        older = await anyio.to_thread.run_sync(self._file.between, sandbox.id, start or 0.0, until)
        first = oldest[0].timestamp if oldest else float("inf")
        return [sample for sample in older if sample.timestamp < first] + recent

    async def flush(self) -> None:
        """Write what waits for the disk, and remove what is too old there."""
        waiting, self._waiting = self._waiting, []
        file, now = self._file, self._clock.time()
        if file is None:
            return

        def write() -> None:
            file.add(waiting)
            file.prune(now)

        try:
            await anyio.to_thread.run_sync(write)
        except OSError as error:
            # Sandboxes matter more than their history: they go on without.
            self._waiting = (waiting + self._waiting)[-_MOST_WAITING:]
            _log.warning("the history of metrics was not written: %s", error)

    async def close(self) -> None:
        """Write what is left, and close the history."""
        if self._file is not None:
            await self.flush()
            await anyio.to_thread.run_sync(self._file.close)
            self._file = None

    def forget(self, sandbox: str) -> None:
        """It has ended; its history stays."""
        self._kept_at.pop(sandbox, None)

    def _keep(self, sandbox: str, sample: MetricsSample) -> None:
        history = self._settings.history
        before = self._kept_at.get(sandbox)
        if history is None or (before is not None and sample.timestamp - before < history.step):
            return
        self._kept_at[sandbox] = sample.timestamp
        self._waiting.append((sandbox, sample))
