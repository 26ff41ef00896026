"""How long one sandbox lives: its lease, its wall time and its CPU time."""

from __future__ import annotations

import os
from collections.abc import Callable

from atoll.engine.clock import Clock
from atoll.engine.deadlines import Deadlines
from atoll.model import InvalidArgument, KilledBy, Limits

_CPU_CHECK_SECONDS = 0.05
_OVERDUE_SECONDS = 0.001


class Lifetime:
    """Calls `end` when the time is over.

    Args:
        sandbox_id: keeps its deadlines apart from those of others.
        limits: of which `wall` and `cpu_time` matter here.
        clock, deadlines: the engine's.
        cpu_time: what the sandbox has used, or None.
        end: called with why, and with the limit that was reached, if it was one.

    Attributes:
        started_at: seconds since the epoch; a spare sandbox starts when somebody claims it.
    """

    def __init__(
        self,
        sandbox_id: str,
        limits: Limits,
        clock: Clock,
        deadlines: Deadlines,
        *,
        cpu_time: Callable[[], float | None],
        end: Callable[[str, KilledBy | None], None],
    ) -> None:
        self.started_at = clock.time()
        self._id = sandbox_id
        self._limits = limits
        self._clock = clock
        self._deadlines = deadlines
        self._cpu_time = cpu_time
        self._end = end
        self._lease: float | None = None

    @property
    def expires_at(self) -> float | None:
        """When the lease ends, in seconds since the epoch; None without a lease."""
        clock = self._clock
        return None if self._lease is None else self._lease - clock.now() + clock.time()

    def begin(self, started_at: float | None = None) -> None:
        """The sandbox is somebody's from now on, or was since `started_at`."""
        self.started_at = self._clock.time() if started_at is None else started_at
        if self._limits.wall is not None:
            age = self._clock.time() - self.started_at
            when = self._clock.now() + self._limits.wall - age
            self._deadlines.set(f"{self._id} wall", when, lambda: self._reached(KilledBy.WALL))
        if self._limits.cpu_time is not None:
            self._watch_cpu()

    def take_up(self, started_at: float, expires_at: float | None) -> None:
        """Go on as a former process of the same owner has begun."""
        if expires_at is not None:
            self.set_lease(max(expires_at - self._clock.time(), _OVERDUE_SECONDS))
        self.begin(started_at)

    def set_lease(self, seconds: float | None) -> None:
        """It ends after `seconds`, instead of when it would have. None: no lease.

        Raises:
            InvalidArgument: not seconds above zero.
        """
        if seconds is None:
            self._lease = None
            self._deadlines.drop(f"{self._id} lease")
            return
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds > 0:
            raise InvalidArgument(f"a timeout is seconds above zero or None, not {seconds!r}")
        self._lease = self._clock.now() + seconds
        over = f"{self._id} lease"
        self._deadlines.set(over, self._lease, lambda: self._end("its lease ran out", None))

    def stop(self) -> None:
        """It has ended: nothing is due any more."""
        for kind in ("lease", "wall", "cpu"):
            self._deadlines.drop(f"{self._id} {kind}")

    def _reached(self, killed_by: KilledBy) -> None:
        self._end(f"it reached its limit of {killed_by.value} time", killed_by)

    def _watch_cpu(self) -> None:
        """Look again when the limit can be reached at the earliest."""
        used = self._cpu_time()
        if self._limits.cpu_time is None or used is None:
            return
        left = self._limits.cpu_time - used
        if left <= 0:
            self._reached(KilledBy.CPU)
            return
        fastest = self._limits.cpu or os.cpu_count() or 1
        when = self._clock.now() + max(left / fastest, _CPU_CHECK_SECONDS)
        self._deadlines.set(f"{self._id} cpu", when, self._watch_cpu)
