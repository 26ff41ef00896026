"""Kill an owner with SIGKILL in the middle of its creates: the next start finds nothing of it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from creates_forever import LIMITS

from atoll.engine import Engine
from atoll.engine.owner_client import Owners
from atoll.model import AtollError
from atoll.testing.waiting import eventually_holds

_PROGRAM = Path(__file__).parent / "creates_forever.py"


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """Not tmp_path: a sandbox's user has to be able to reach it."""
    path = Path(tempfile.mkdtemp(prefix="atoll-fault-"))
    yield path
    shutil.rmtree(path)


def owned_processes(owner: str) -> list[str]:
    """Processes that mention an owner, or are in one of its cgroups."""
    found = []
    for directory in Path("/proc").iterdir():
        if not directory.name.isdecimal():
            continue
        try:
            told = (directory / "cgroup").read_text() + (directory / "cmdline").read_text()
        except OSError:
            continue
        if owner in told:
            found.append(told)
    return found


def owned_cgroups(owner: str) -> list[Path]:
    return [
        Path(top) for top, _, _ in os.walk("/sys/fs/cgroup") if Path(top).name.startswith(owner)
    ]


def mounts() -> int:
    return len(Path("/proc/self/mountinfo").read_text().splitlines())


@pytest.mark.parametrize("launcher", ["fake", "namespaces", "bubblewrap"])
@pytest.mark.parametrize("survivors", [1, 40])
def test_an_owner_killed_among_its_creates_leaves_nothing(
    data_dir: Path, launcher: str, survivors: int
) -> None:
    probe_or_skip(data_dir, launcher)
    before = mounts()
    program = subprocess.Popen(
        [sys.executable, str(_PROGRAM), str(data_dir), launcher],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert program.stdout is not None
    with program.stdout:
        for _ in range(survivors):
            assert program.stdout.readline() == b"made\n"
        (owner,) = [path.name for path in (data_dir / "owners").iterdir()]
        program.send_signal(signal.SIGKILL)
        program.wait()

    async def restart() -> None:
        async with Engine(data_dir=data_dir, launcher=launcher):
            assert await Owners(data_dir).ps() == []

    anyio.run(restart)
    assert eventually_holds(lambda: owned_processes(owner) == []), owned_processes(owner)
    assert owned_cgroups(owner) == []
    assert list((data_dir / "owners").iterdir()) == []
    assert mounts() == before


def probe_or_skip(data_dir: Path, launcher: str) -> None:
    async def probe() -> None:
        async with Engine(data_dir=data_dir, launcher=launcher) as engine:
            await engine.create("base", limits=LIMITS)

    try:
        if launcher != "fake":
            anyio.run(probe)
    except AtollError as error:
        pytest.skip(f"{launcher} does not work here: {error.message}")
