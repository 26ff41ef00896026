"""What is due when: one task watches every lease and limit in time of an engine."""

from __future__ import annotations

import heapq
import itertools
import logging
from collections.abc import Callable

import anyio

from atoll.engine.clock import Clock

_log = logging.getLogger(__name__)


class Deadlines:
    """Calls back at set times, in order.

    Args:
        clock: says what time it is.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._heap: list[tuple[float, int, str]] = []
        self._numbers = itertools.count()
        self._due: dict[str, tuple[int, Callable[[], None]]] = {}
        self._sleep: anyio.CancelScope | None = None
        self._until = float("inf")

    def set(self, key: str, when: float, action: Callable[[], None]) -> None:
        """Call `action` at `when`, instead of what was set for `key` before."""
        number = next(self._numbers)
        self._due[key] = (number, action)
        heapq.heappush(self._heap, (when, number, key))
        if when < self._until and self._sleep is not None:
            self._sleep.cancel()

    def drop(self, key: str) -> None:
        """Forget what was set for `key`, if anything."""
        self._due.pop(key, None)
        if len(self._heap) > 64 + 4 * len(self._due):
            self._heap = [e for e in self._heap if self._is_current(e)]
            heapq.heapify(self._heap)

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            self._call_due()
            self._until = self._heap[0][0] if self._heap else float("inf")
            with anyio.CancelScope() as self._sleep:
                if self._heap:
                    await self._clock.sleep_until(self._until)
                else:
                    await anyio.sleep_forever()

    def _is_current(self, entry: tuple[float, int, str]) -> bool:
        return entry[2] in self._due and self._due[entry[2]][0] == entry[1]

    def _call_due(self) -> None:
        while self._heap and self._heap[0][0] <= self._clock.now():
            entry = heapq.heappop(self._heap)
            if not self._is_current(entry):
                continue
            try:
                self._due.pop(entry[2])[1]()
            except Exception:
                # All sandboxes' deadlines hang on this task: one of them must not end it.
                _log.exception("what was due for %s failed", entry[2])
