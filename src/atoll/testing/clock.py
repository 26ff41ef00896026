"""A clock that moves only when it is told to, so that tests of leases and deadlines are instant."""

from __future__ import annotations

import anyio


class SettableClock:
    """Implements `atoll.engine.clock.Clock`; time stands still between calls of `advance`.

    Args:
        start: the first value of `now()`.
        epoch: the first value of `time()`.
    """

    def __init__(self, start: float = 1000.0, epoch: float = 1_700_000_000.0) -> None:
        self._now = start
        self._offset = epoch - start
        self._moved = anyio.Event()

    def now(self) -> float:
        """The set time."""
        return self._now

    def time(self) -> float:
        """The set time, as seconds since the epoch."""
        return self._now + self._offset

    async def sleep_until(self, when: float) -> None:
        """Wait until `advance` has moved the time to `when`."""
        while self._now < when:
            await self._moved.wait()

    async def advance(self, seconds: float) -> None:
        """Move the time and let every sleeper that is due run once."""
        self._now += seconds
        moved, self._moved = self._moved, anyio.Event()
        moved.set()
        await anyio.wait_all_tasks_blocked()
