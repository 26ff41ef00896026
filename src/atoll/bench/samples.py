"""Numbers from repeated measurements: how they are taken and how they are summed up."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from statistics import median
from time import perf_counter

Step = Callable[[], Awaitable[float]]
"""Does the thing once and returns what it cost, in the row's unit."""


@dataclass(frozen=True)
class Summary:
    """What is printed of a series of measurements."""

    minimum: float
    median: float
    p95: float
    n: int


def summarise(values: list[float]) -> Summary:
    """Minimum, median, 95th percentile (nearest rank) and count of `values`."""
    if not values:
        raise ValueError("nothing was measured")
    ordered = sorted(values)
    rank = max(0, -(-len(ordered) * 95 // 100) - 1)
    return Summary(ordered[0], median(ordered), ordered[rank], len(ordered))


async def interleave(
    steps: Mapping[str, Step], *, rounds: int, warm_up: int
) -> dict[str, list[float]]:
    """Run every step once a round, so that what drifts on the machine drifts for all of them.

    The first `warm_up` rounds are thrown away.
    """
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(warm_up + rounds):
        for name, step in steps.items():
            value = await step()
            if number >= warm_up:
                taken[name].append(value)
    return taken


class Stopwatch:
    """Milliseconds since it was made."""

    def __init__(self) -> None:
        self._start = perf_counter()

    @property
    def ms(self) -> float:
        """Milliseconds so far."""
        return (perf_counter() - self._start) * 1e3
