"""Many sandboxes at once, and many one after the other."""

from __future__ import annotations

import os
from collections import Counter
from contextlib import suppress
from pathlib import Path

import anyio
import pytest

from atoll.engine import Engine, Sandbox
from atoll.engine.owner import kernel_name
from atoll.launch.linux.slot_store import SPARE_SLOTS
from atoll.launch.linux.slots import NAMESPACES
from atoll.model import Limits
from atoll.testing.waiting import eventually

pytestmark = pytest.mark.anyio


def machine_state(data_dir: Path) -> Counter[str]:
    """What a leak would add to: this process's descendants, its cgroups, mounts and descriptors."""
    state: Counter[str] = Counter(processes=len(descendants(os.getpid())))
    for owner in data_dir.glob("owners/*"):
        state["cgroups"] += len(
            list(Path("/sys/fs/cgroup").rglob(f"atoll/{kernel_name(owner)}/*/"))
        )
    state["mounts"] = Path("/proc/self/mountinfo").read_text().count("\n")
    state["descriptors"] = len(list(Path("/proc/self/fd").iterdir()))
    return state


def descendants(pid: int) -> set[int]:
    """Every process below `pid`, in any pid namespace."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found: set[int] = set()
    pending = [pid]
    while pending:
        below = children.get(pending.pop(), [])
        found.update(below)
        pending += below
    return found


async def create(engine: Engine, limits: Limits, into: list[Sandbox]) -> None:
    into.append(await engine.create("base", limits=limits))


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_three_hundred_sandboxes_hold_their_own_state_at_once(
    engine: Engine, limits: Limits
) -> None:
    alive: list[Sandbox] = []
    for _ in range(30):
        async with anyio.create_task_group() as group:
            for _ in range(10):
                group.start_soon(create, engine, limits, alive)
    for number, sandbox in enumerate(alive):
        await sandbox.run_code(f"mine = {number}")
    for number, sandbox in enumerate(alive):
        assert (await sandbox.run_code("mine")).text == str(number)
    private = [private_kilobytes(sandbox) for sandbox in alive]
    print(f"\nprivate memory of a sandbox with a context: {sum(private) / len(private):.0f} kB")
    assert len({info.id for info in engine.list()}) == 300


def private_kilobytes(sandbox: Sandbox) -> int:
    """Memory that only this sandbox's processes hold: its guest and what runs under it."""
    namespace = Path(f"/proc/{sandbox.info.pid}/ns/pid").readlink()
    total = 0
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if (entry / "ns/pid").readlink() == namespace:
                for line in (entry / "smaps_rollup").read_text().splitlines():
                    if line.startswith(("Private_Clean", "Private_Dirty")):
                        total += int(line.split()[1])
        except OSError:
            continue
    return total


@pytest.mark.parametrize(
    "count", [100, pytest.param(2000, marks=[pytest.mark.slow, pytest.mark.timeout(300)])]
)
async def test_creates_and_kills_leave_the_machine_as_it_was(
    engine: Engine, limits: Limits, count: int
) -> None:
    for _ in range(20):
        await (await engine.create("base", limits=limits)).kill(grace=0)
    before = machine_state(engine.data_dir)
    for _ in range(count):
        sandbox = await engine.create("base", limits=limits)
        await sandbox.kill(grace=0)
    # Spare slots may be more than before: they are prepared in the background, by processes.
    spare = Counter({"descriptors": SPARE_SLOTS * len(NAMESPACES)})
    with suppress(TimeoutError):
        await eventually(lambda: machine_state(engine.data_dir) - before <= spare)
    assert machine_state(engine.data_dir) - before <= spare


async def test_a_closed_engine_leaves_nothing(tmp_path: Path, limits: Limits) -> None:
    before = machine_state(tmp_path)
    async with Engine(data_dir=tmp_path / "data", launcher="namespaces") as engine:
        for _ in range(5):
            await engine.create("base", limits=limits)
    assert not machine_state(tmp_path) - before
    assert not list((tmp_path / "data" / "owners").iterdir())


async def test_a_deep_and_a_wide_tree_go_with_their_sandbox(engine: Engine, limits: Limits) -> None:
    sandbox = await engine.create("base", limits=limits)
    deep = "import os\nfor _ in range(3000):\n    os.mkdir('d'); os.chdir('d')"
    assert (await sandbox.run_code(deep)).error is None
    removed = await sandbox.commands.run(["rm", "-rf", "/home/user/d"], timeout=60)
    assert removed.exit_code == 0
    await sandbox.run_code("os.chdir('/home/user')\n" + deep)
    await sandbox.files.remove("/home/user/d")
    assert not await sandbox.files.exists("/home/user/d")
    assert await sandbox.kill()
