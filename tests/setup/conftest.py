"""Real sandboxes from real trees, with a cache between runs for what takes long to make."""

from __future__ import annotations

import os
from pathlib import Path

import anyio
import pytest

from atoll import Engine, Limits
from atoll.model import IsolationError, LimitUnavailable

ROOTLESS = Limits(memory=None, cpu=None, pids=None, disk=None)


@pytest.fixture(scope="session")
def cache() -> Path:
    """Where trees are kept between runs."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    path = Path(base) / "atoll-tests"
    path.mkdir(parents=True, exist_ok=True)
    return path


@pytest.fixture(scope="session")
def limits(tmp_path_factory: pytest.TempPathFactory) -> Limits:
    """The limits that this account can hold; skips where no sandbox can be made."""
    data = tmp_path_factory.mktemp("probe")

    async def probe(wanted: Limits) -> Limits:
        async with Engine(data_dir=data) as engine, await engine.create("base", limits=wanted):
            return wanted

    try:
        return anyio.run(probe, Limits(memory="1G"))
    except LimitUnavailable:
        return anyio.run(probe, ROOTLESS)
    except IsolationError as error:
        pytest.skip(f"no sandbox can be made here: {error}")
