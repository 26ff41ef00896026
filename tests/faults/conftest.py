"""Engines that are broken on purpose, on the default launcher."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from atoll.engine import Engine
from atoll.launch.linux.cgroups import Cgroups
from atoll.model import Limits


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def limits() -> Limits:
    """The defaults, without those that this account cannot hold here."""
    found = Cgroups.detect(f"probe-{os.getpid()}")
    try:
        unheld = {"memory", "cpu"} - found.holds
    finally:
        found.remove()
    return Limits(**dict.fromkeys(unheld))


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[Engine]:
    async with Engine(data_dir=tmp_path / "data", launcher="namespaces") as engine:
        yield engine
