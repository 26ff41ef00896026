"""A guest without walls, and a directory that its user may write to."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from guest_host import ROOT, UID, Host


@pytest.fixture
def host() -> Iterator[Host]:
    host = Host()
    yield host
    assert host.close() == 0


@pytest.fixture
def place() -> Iterator[Path]:
    # Not tmp_path: its parents are closed to the other user.
    path = Path(tempfile.mkdtemp())
    if ROOT:
        os.chown(path, UID, UID)
    yield path
    shutil.rmtree(path, ignore_errors=True)
