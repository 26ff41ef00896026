"""Counts a sandbox's bytes and holds them to a rate."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

import anyio

Way = Literal["in", "out"]
_SMALLEST_CHUNK = 4096
_LARGEST_CHUNK = 1 << 18


class Bucket:
    """Tokens that come back at a rate. It may go into debt, which the next ones wait for."""

    def __init__(
        self, rate: float, burst: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._tokens = burst
        self._at = clock()

    def _refill(self) -> None:
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now

    def try_take(self, count: float = 1.0) -> bool:
        """Take `count` tokens if they are there."""
        self._refill()
        if self._tokens < count:
            return False
        self._tokens -= count
        return True

    def owe(self, count: float) -> float:
        """Take `count` tokens; the seconds until they would have been there."""
        self._refill()
        self._tokens -= count
        return max(0.0, -self._tokens / self._rate)


class Meter:
    """The bytes of one sandbox, over all its connections."""

    def __init__(
        self, bandwidth: int | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.bytes_in = 0
        self.bytes_out = 0
        self._clock = clock
        self._bucket: Bucket | None = None
        self.chunk = _LARGEST_CHUNK
        self.limit(bandwidth)

    def limit(self, bandwidth: int | None) -> None:
        """From now on at most `bandwidth` bytes a second, or as many as come."""
        self._bucket = None
        self.chunk = _LARGEST_CHUNK
        if bandwidth is not None:
            self._bucket = Bucket(bandwidth, bandwidth / 10, self._clock)
            # A tenth of a second at a time, so that a slow rate is even.
            self.chunk = min(_LARGEST_CHUNK, max(_SMALLEST_CHUNK, bandwidth // 10))

    def debt(self, count: int, way: Way) -> float:
        """Count bytes that were moved; the seconds to wait before the next ones."""
        if way == "in":
            self.bytes_in += count
        else:
            self.bytes_out += count
        return self._bucket.owe(count) if self._bucket else 0.0

    async def spend(self, count: int, way: Way) -> None:
        """Count bytes, and wait as long as they are over the rate."""
        if delay := self.debt(count, way):
            await anyio.sleep(delay)


class Tally:
    """The bytes of one connection, which count for its sandbox as well."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self.bytes_in = 0
        self.bytes_out = 0

    @property
    def chunk(self) -> int:
        """The most bytes to move at once."""
        return self._meter.chunk

    def debt(self, count: int, way: Way) -> float:
        """As `Meter.debt`."""
        if way == "in":
            self.bytes_in += count
        else:
            self.bytes_out += count
        return self._meter.debt(count, way)

    async def spend(self, count: int, way: Way) -> None:
        """As `Meter.spend`."""
        if delay := self.debt(count, way):
            await anyio.sleep(delay)
