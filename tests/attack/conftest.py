"""One arena for each launcher, kept for the whole module."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from atoll.model import LauncherUnavailable, WallUnavailable
from atoll.testing.attacks.arena import Arena, open_arena
from atoll.testing.leaks import scratch_directory

LAUNCHERS = ("namespaces", "bubblewrap")


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def data_dir() -> Iterator[Path]:
    with scratch_directory() as path:
        yield path


@pytest.fixture(scope="module", params=LAUNCHERS)
async def arena(request: pytest.FixtureRequest, data_dir: Path) -> AsyncIterator[Arena]:
    try:
        async with open_arena(launcher=request.param, data_dir=data_dir) as opened:
            yield opened
    except (LauncherUnavailable, WallUnavailable) as error:
        # The launcher itself says what this machine lacks; anything else is a failure.
        pytest.skip(str(error))
