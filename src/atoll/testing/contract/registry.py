"""All cases."""

from __future__ import annotations

from atoll.testing.contract import commands, files, isolation, lifetime, limits, network, observing
from atoll.testing.contract.case import Case

CASES: tuple[Case, ...] = (
    *commands.CASES,
    *files.CASES,
    *limits.CASES,
    *lifetime.CASES,
    *isolation.CASES,
    *observing.CASES,
    *network.CASES,
)


def cases_for(*, walls: bool) -> tuple[Case, ...]:
    """The cases for a launcher that builds walls, or for one that does not."""
    return tuple(case for case in CASES if walls or not case.walls)
