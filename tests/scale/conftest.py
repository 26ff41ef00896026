"""One engine on the default launcher for each test."""

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
def limits(tmp_path: Path) -> Limits:
    """Small limits, without those that this account cannot hold here."""
    holds = Cgroups.detect(f"probe-{os.getpid()}")
    try:
        unheld = {"memory", "cpu"} - holds.holds
    finally:
        holds.remove()
    wanted = {"memory": "256M", "cpu": 2.0} | dict.fromkeys(unheld)
    return Limits(disk="64M", pids=64, **wanted)  # type: ignore[arg-type]


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[Engine]:
    async with Engine(data_dir=tmp_path / "data", launcher="namespaces") as engine:
        yield engine
