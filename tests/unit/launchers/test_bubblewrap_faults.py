"""What is left when a create is cancelled half-way, or its engine is killed."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import anyio
import pytest
from raw_guest import RawGuest

from atoll.launch.bubblewrap import BubblewrapLauncher
from atoll.launch.linux.remains import reap
from atoll.model import SandboxSpec, Template
from atoll.testing.waiting import eventually_holds

pytestmark = pytest.mark.usefixtures("root_and_bwrap")
CGROUPS = Path("/sys/fs/cgroup")
ENGINE = """
import sys
from pathlib import Path
import anyio
from atoll.engine.templates import Templates
from atoll.launch.bubblewrap import BubblewrapLauncher
from atoll.model import SandboxSpec

async def main():
    base = await Templates(Path(sys.argv[1])).get("base")
    launcher = BubblewrapLauncher(Path(sys.argv[1]), owner=sys.argv[2])
    made = [await launcher.launch(SandboxSpec(f"s{i}", base)) for i in range(3)]
    print(*(sandbox.pid for sandbox in made), launcher._process.pid, flush=True)
    async with anyio.create_task_group() as group:
        for i in range(100):
            group.start_soon(launcher.launch, SandboxSpec(f"more{i}", base))
        await anyio.sleep(60)

anyio.run(main)
"""


def cgroups_of(owner: str) -> list[Path]:
    return [path for path in CGROUPS.glob(f"**/{owner}") if path.is_dir()]


def members(owner: str) -> list[str]:
    """Processes in the owner's cgroups."""
    return [
        pid
        for top in cgroups_of(owner)
        for file in top.glob("*/cgroup.procs")
        for pid in file.read_text().split()
    ]


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_cancelled_creates_leave_nothing(data_dir: Path, base: Template) -> None:
    owner = "cancelled-tests"

    async def main() -> None:
        launcher = BubblewrapLauncher(data_dir, owner=owner)
        try:
            await launcher.prepare(base)
            open_before = len(list(Path("/proc/self/fd").iterdir()))
            for step in range(12):
                with anyio.move_on_after(step * 0.008):
                    await launcher.launch(SandboxSpec(f"c{step}", base))
                for sandbox in list(launcher._alive):
                    await sandbox.destroy()
            assert members(owner) == []
            assert len(list(Path("/proc/self/fd").iterdir())) == open_before
            last = await launcher.launch(SandboxSpec("last", base))
            assert RawGuest(last.channel).run("true") == (0, "")
        finally:
            await launcher.close()

    anyio.run(main)
    assert cgroups_of(owner) == []


def test_sandboxes_die_with_an_engine_that_is_killed(data_dir: Path) -> None:
    owner = f"killed-{os.getpid()}"
    engine = subprocess.Popen(
        [sys.executable, "-c", ENGINE, str(data_dir), owner], stdout=subprocess.PIPE, text=True
    )
    assert engine.stdout is not None
    with engine.stdout:
        assert select.select([engine.stdout], [], [], 30)[0]
        pids = [int(word) for word in engine.stdout.readline().split()]
        time.sleep(0.3)
        engine.send_signal(signal.SIGKILL)
        engine.wait()
    assert eventually_holds(lambda: all(map(gone, pids)) and not members(owner)), members(owner)
    assert reap(owner)
    assert cgroups_of(owner) == []
