"""Every attack, against every Linux launcher."""

from __future__ import annotations

import pytest
from _pytest.mark.structures import ParameterSet

from atoll.testing.attacks import ATTACKS, Attack, run_attack
from atoll.testing.attacks.arena import Arena

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(400)]


NOT_YET_HELD = {
    "outlive-timeout": "a command that leaves its process group by setsid lives on after its "
    "timeout, until its sandbox ends; a cgroup for each command would hold it",
}


def cases() -> list[ParameterSet]:
    return [
        pytest.param(
            attack,
            id=attack.name,
            marks=[pytest.mark.xfail(strict=True, reason=NOT_YET_HELD[attack.name])]
            if attack.name in NOT_YET_HELD
            else [],
        )
        for attack in ATTACKS
    ]


@pytest.mark.parametrize("attack", cases())
async def test_attack(arena: Arena, attack: Attack) -> None:
    launcher = arena.sandbox.info.launcher
    if attack.launchers and launcher not in attack.launchers:
        pytest.skip(f"{launcher} has nothing that this could attack")
    report = await run_attack(arena, attack)
    assert report.verdict.held, f"{attack.question}\n{report.verdict.detail}"
