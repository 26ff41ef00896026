"""Waiting ends when the condition holds, and says when it never did."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest

from atoll.testing.waiting import eventually, eventually_holds


class Fourth:
    """Holds from the fourth question on."""

    def __init__(self) -> None:
        self.asked = 0

    def now(self) -> bool:
        self.asked += 1
        return self.asked >= 4

    async def soon(self) -> bool:
        await anyio.lowlevel.checkpoint()
        return self.now()


def test_it_ends_with_the_first_yes() -> None:
    plain, awaited, blocking = Fourth(), Fourth(), Fourth()
    anyio.run(eventually, plain.now)
    anyio.run(eventually, awaited.soon)
    assert eventually_holds(blocking.now)
    assert (plain.asked, awaited.asked, blocking.asked) == (4, 4, 4)


def test_what_never_holds_is_told() -> None:
    with pytest.raises(TimeoutError):
        anyio.run(eventually, lambda: False, 0.05)
    assert not eventually_holds(lambda: False, 0.05)
