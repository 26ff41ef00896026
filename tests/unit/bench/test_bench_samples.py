"""How series of measurements are taken and summed up."""

from __future__ import annotations

import anyio
import pytest

from atoll.bench.samples import Summary, interleave, summarise


def test_summary_of_a_hundred() -> None:
    assert summarise([float(n) for n in range(100, 0, -1)]) == Summary(1.0, 50.5, 95.0, 100)


def test_summary_of_one() -> None:
    assert summarise([7.0]) == Summary(7.0, 7.0, 7.0, 1)


def test_nothing_measured_is_an_error() -> None:
    with pytest.raises(ValueError, match="nothing"):
        summarise([])


def test_steps_take_turns_and_the_warm_up_is_thrown_away() -> None:
    order: list[str] = []

    def step(name: str) -> object:
        async def once() -> float:
            order.append(name)
            return float(len(order))

        return once

    steps = {"a": step("a"), "b": step("b")}

    async def work() -> dict[str, list[float]]:
        return await interleave(steps, rounds=2, warm_up=1)  # type: ignore[arg-type]

    taken = anyio.run(work)
    assert order == ["a", "b"] * 3
    assert taken == {"a": [3.0, 5.0], "b": [4.0, 6.0]}
