"""Attacks are made only where they hit a sandbox and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from atoll.model import UnknownTemplate, WallCheckFailed
from atoll.testing.attacks.arena import open_arena

pytestmark = pytest.mark.anyio


async def test_a_sandbox_without_walls_is_not_attacked(data_dir: Path) -> None:
    with pytest.raises(WallCheckFailed, match="not apart from this machine: it shares"):
        async with open_arena(launcher="fake", data_dir=data_dir):
            raise AssertionError("attacks would be made now")


async def test_a_template_that_does_not_exist_is_no_broken_wall(data_dir: Path) -> None:
    with pytest.raises(UnknownTemplate):
        async with open_arena(launcher="fake", data_dir=data_dir, interpreter="no-such"):
            raise AssertionError("attacks would be made now")
