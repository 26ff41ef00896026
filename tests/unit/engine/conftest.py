"""Engines over the launcher without walls, with the real guest or a hostile one."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from engine_kit import open_descriptors

from atoll.engine import Engine, Sandbox
from atoll.launch.fake import FakeLauncher
from atoll.model import Limits, Template

LIMITS = Limits(output="1M")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that every user may write to; tmp_path's parents are closed to others."""
    path = Path(tempfile.mkdtemp(prefix="atoll-test-"))
    path.chmod(0o777)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def template(place: Path) -> Template:
    return Template("test", (), cwd=str(place), python=sys.executable)


@pytest.fixture
async def engine(place: Path) -> AsyncIterator[Engine]:
    before = open_descriptors()
    async with Engine(data_dir=place / "data", launcher="fake") as engine:
        yield engine
    assert open_descriptors() == before


@pytest.fixture
async def sandbox(engine: Engine, template: Template) -> Sandbox:
    return await engine.create(template, limits=LIMITS)


@pytest.fixture
def launcher(place: Path) -> FakeLauncher:
    """For tests that look at, or change, what the launcher says."""
    return FakeLauncher(place)
