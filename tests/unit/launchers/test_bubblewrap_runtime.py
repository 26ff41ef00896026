"""The interpreter that each sandbox brings along."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from atoll.launch import bubblewrap_runtime
from atoll.launch.bubblewrap import shared_home
from atoll.launch.bubblewrap_find import Bwrap, find
from atoll.model import LauncherUnavailable

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")


@pytest.fixture(scope="module")
def bwrap() -> Bwrap:
    try:
        return find()
    except LauncherUnavailable as error:
        pytest.skip(str(error))


def test_it_runs_by_its_own_loader_and_libraries(data_dir: Path, bwrap: Bwrap) -> None:
    runtime = bubblewrap_runtime.build(data_dir, bwrap)
    guest = runtime.directory / "guest"
    words = [word.replace("/.atoll", str(guest)) for word in runtime.guest[:-1]]
    code = (
        "import ctypes, json, socket, sys; "
        "maps = open('/proc/self/maps').read(); "
        "print(json.dumps([sys.prefix, sorted({l.split()[-1] for l in maps.splitlines()})]))"
    )
    done = subprocess.run([*words, "-c", code], env={}, capture_output=True, text=True, check=True)
    assert f'"{guest}/python"' in done.stdout
    assert "libc.so" in done.stdout or "musl" in done.stdout
    loaded = json.loads(done.stdout)[1]
    assert [path for path in loaded if ".so" in path and not path.startswith(str(guest))] == []


def test_all_can_read_it_and_nobody_gains_by_it(data_dir: Path, bwrap: Bwrap) -> None:
    runtime = bubblewrap_runtime.build(data_dir, bwrap)
    for path in runtime.directory.rglob("*"):
        mode = path.lstat().st_mode
        assert stat.S_ISREG(mode) or stat.S_ISDIR(mode), path
        assert mode & 0o444 == 0o444 and not mode & 0o7022, path


def test_it_is_made_once(data_dir: Path, bwrap: Bwrap) -> None:
    first = bubblewrap_runtime.build(data_dir, bwrap)
    before = first.directory.stat().st_mtime_ns
    assert bubblewrap_runtime.build(data_dir, bwrap) == first
    assert first.directory.stat().st_mtime_ns == before
    assert not list(first.directory.parent.glob("new-*"))


def test_a_failed_build_leaves_nothing(
    tmp_path: Path, bwrap: Bwrap, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bubblewrap_runtime, "_needed", lambda _: {})
    with pytest.raises(LauncherUnavailable, match="loader"):
        bubblewrap_runtime.build(tmp_path, bwrap)
    assert not list((tmp_path / "bubblewrap").iterdir())


def test_owners_share_it() -> None:
    assert shared_home(Path("/data/owners/one/launch")) == Path("/data")
    assert shared_home(Path("/data")) == Path("/data")
