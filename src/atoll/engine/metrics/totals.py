"""What an engine has done since its start, counted."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter

BOUNDS = (0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Upper bounds in seconds of the buckets of create's latency; one more has none."""


class Totals:
    """Counters of one engine.

    Attributes:
        creates, failed_creates: calls of `create` that gave a sandbox, and that did not.
        pool_hits: creates that a spare sandbox answered.
        create_seconds: what all creates took together.
        create_buckets: how many creates took at most `BOUNDS[i]`, and not `BOUNDS[i - 1]`.
        kills: sandboxes that ended because somebody asked for it.
        evictions: sandboxes that ended for another reason, by reason.
    """

    def __init__(self) -> None:
        self.creates = 0
        self.failed_creates = 0
        self.pool_hits = 0
        self.create_seconds = 0.0
        self.create_buckets = [0] * (len(BOUNDS) + 1)
        self.kills = 0
        self.evictions: Counter[str] = Counter()

    def created(self, seconds: float, *, from_pool: bool) -> None:
        """One create has given a sandbox."""
        self.creates += 1
        self.pool_hits += from_pool
        self.create_seconds += seconds
        self.create_buckets[bisect_left(BOUNDS, seconds)] += 1

    def ended(self, reason: str) -> None:
        """One sandbox of a client's has ended."""
        if reason == "killed":
            self.kills += 1
        else:
            self.evictions[reason] += 1
