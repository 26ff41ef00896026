"""What each row may cost: the one table of targets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from atoll.bench.samples import Summary


@dataclass(frozen=True)
class Target:
    """A bound on one statistic of a row.

    Attributes:
        text: as it is printed.
        limit: the bound, in the row's unit, or a factor if `of` names a peer's row.
        of: key of the row whose median the factor is taken of.
        at_least: the value has to reach the bound rather than stay under it.
    """

    text: str
    limit: float
    of: str | None = None
    at_least: bool = False
    statistic: Literal["median", "p95"] = "median"

    def holds(self, summary: Summary, bound: float) -> bool:
        """True if the summary stays within `bound`."""
        value: float = getattr(summary, self.statistic)
        return value >= bound if self.at_least else value <= bound


TARGETS: dict[str, Target] = {
    "base_first_cell": Target("at most 0.25 x bare python3", 0.25, of="bare_python"),
    "science_first_cell": Target("at most 0.7 x bare python3", 0.7, of="bare_python"),
    "pool_first_cell": Target("at most 2 ms", 2.0),
    "hot_cell": Target("at most 0.5 ms", 0.5),
    "hot_command": Target("at most 3 ms", 3.0),
    "sustained": Target("at least 150 a second", 150.0, at_least=True),
    "memory_idle": Target("at most 2 MB", 2.0),
    "memory_context": Target("at most 4 MB", 4.0),
    "alive_create": Target("at most 2 x the time at 10 alive", 2.0, of="alive_at_10"),
    "alive_answers": Target("every one answers", 100.0, at_least=True),
    "collect": Target("at most 3 % of a core", 3.0),
    "file_read": Target("at least 100 MB/s", 100.0, at_least=True),
    "file_write": Target("at least 50 MB/s", 50.0, at_least=True),
    "list_directory": Target("at most 100 ms", 100.0),
    "watch_delay": Target("95 % within 10 ms", 10.0, statistic="p95"),
    "egress_bytes": Target("at least 1 x socat", 1.0, of="socat_bytes", at_least=True),
    "egress_connect": Target("at most 2 ms", 2.0),
    "watch_complete": Target("none lost", 10_000.0, at_least=True),
}
