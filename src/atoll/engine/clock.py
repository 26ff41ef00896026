"""Time as a parameter: leases and limits in time ask a clock, so that their tests are instant."""

from __future__ import annotations

import time
from typing import Protocol

import anyio


class Clock(Protocol):
    """What the engine asks for the time."""

    def now(self) -> float:
        """Seconds on a clock that never goes back."""

    def time(self) -> float:
        """Seconds since the epoch, for people."""

    async def sleep_until(self, when: float) -> None:
        """Return when `now()` is at least `when`."""


class SystemClock:
    """The machine's clock."""

    def now(self) -> float:
        """Seconds of CLOCK_MONOTONIC."""
        return time.monotonic()

    def time(self) -> float:
        """Seconds since the epoch."""
        return time.time()

    async def sleep_until(self, when: float) -> None:
        """Sleep on the event loop."""
        await anyio.sleep(max(0.0, when - time.monotonic()))
