"""A data directory, the template `base`, and what the machine holds, for tests with real walls."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from atoll.engine.templates import Templates
from atoll.launch.bubblewrap_find import find
from atoll.model import LauncherUnavailable, Template


@pytest.fixture(scope="session")
def data_dir() -> Iterator[Path]:
    """One for all: the runtime in it is made once."""
    path = Path(tempfile.mkdtemp(prefix="atoll-launchers-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="session")
def base(data_dir: Path) -> Template:
    """The template `base` of this machine."""
    return anyio.run(Templates(data_dir).get, "base")


@pytest.fixture(scope="session")
def root_and_bwrap() -> None:
    """Skips where sandboxes cannot be built by root with bwrap."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    try:
        find()
    except LauncherUnavailable as error:
        pytest.skip(str(error))
