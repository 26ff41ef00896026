"""Every attack, against every Linux launcher."""

from __future__ import annotations

import pytest

from atoll.testing.attacks import ATTACKS, Attack, run_attack
from atoll.testing.attacks.arena import Arena

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(400)]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
async def test_attack(arena: Arena, attack: Attack) -> None:
    report = await run_attack(arena, attack)
    if not report.verdict.made:
        pytest.skip(report.verdict.detail)
    assert report.verdict.held, f"{attack.question}\n{report.verdict.detail}"
