"""Kill one part after another: what lives on, what ends, and what the next start finds."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from atoll.engine import Engine, Sandbox
from atoll.engine.owner import kernel_name
from atoll.model import AtollError, Limits

pytestmark = pytest.mark.anyio

_CREATES = """
import sys, anyio
from pathlib import Path
from atoll import Engine, Limits

async def main():
    limits = Limits(**{name: None for name in sys.argv[2].split(",") if name})
    async with Engine(data_dir=Path(sys.argv[1]), launcher="namespaces") as engine:
        for number in range(100):
            sandbox = await engine.create("base", limits=limits)
            print(sandbox.info.pid, flush=True)
        await anyio.sleep_forever()

anyio.run(main)
"""


def part_of(sandbox: Sandbox, part: str) -> int:
    """The process atoll-PART of the shard that a sandbox runs in, found from its guest upwards."""
    names: dict[int, str] = {}
    parent_of: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                text = (entry / "stat").read_text()
            except OSError:
                continue
            names[int(entry.name)] = text[text.index("(") + 1 : text.rindex(")")]
            parent_of[int(entry.name)] = int(text.rsplit(")", 1)[1].split()[1])
    above = [sandbox.info.pid]
    while parent_of[above[-1]] not in (0, os.getpid()):
        above.append(parent_of[above[-1]])
    named = [pid for pid in above if names[pid] == f"atoll-{part}"]
    if named:
        return named[-1]
    (init,) = (pid for pid in above if names[pid] == "atoll-init")
    (found,) = (
        pid for pid, name in names.items() if parent_of[pid] == init and name == f"atoll-{part}"
    )
    return found


async def create(engine: Engine, limits: Limits) -> Sandbox:
    return await engine.create("base", limits=limits)


@pytest.mark.parametrize("part", ["builder", "light", "heavy"])
async def test_a_dead_zygote_ends_no_sandbox_and_the_next_create_has_a_new_one(
    engine: Engine, limits: Limits, part: str
) -> None:
    sandbox = await create(engine, limits)
    assert (await sandbox.run_code("x = 6")).error is None
    pid = part_of(sandbox, part)
    pidfd = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    with anyio.fail_after(10):
        await anyio.wait_readable(pidfd)
    os.close(pidfd)
    assert (await sandbox.run_code("x * 7")).text == "42"
    assert (await sandbox.commands.run(["echo", "here"])).stdout == "here\n"
    with anyio.fail_after(30):
        other = await create(engine, limits)
        assert (await other.run_code("1 + 1")).text == "2"


@pytest.mark.parametrize("part", ["keeper", "init"])
async def test_without_its_trusted_parts_a_shard_ends_whole(
    engine: Engine, limits: Limits, part: str
) -> None:
    sandbox = await create(engine, limits)
    pidfd = os.pidfd_open(sandbox.info.pid)
    os.kill(part_of(sandbox, part), signal.SIGKILL)
    with anyio.fail_after(10):
        await anyio.wait_readable(pidfd)
    os.close(pidfd)
    with pytest.raises(AtollError):
        await sandbox.commands.run(["true"])
    with anyio.fail_after(30):
        assert (await (await create(engine, limits)).run_code("2")).text == "2"


async def test_a_killed_guest_is_a_dead_sandbox_and_no_other(
    engine: Engine, limits: Limits
) -> None:
    victim, neighbour = await create(engine, limits), await create(engine, limits)
    os.kill(victim.info.pid, signal.SIGKILL)
    with pytest.raises(AtollError, match=victim.id):
        await victim.commands.run(["sleep", "5"])
    assert (await neighbour.commands.run(["true"])).ok


async def test_an_engine_killed_in_the_middle_of_creates_leaves_nothing(
    tmp_path: Path, limits: Limits
) -> None:
    data = tmp_path / "data"
    unheld = ",".join(name for name in ("memory", "cpu") if getattr(limits, name) is None)
    engine = subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-c", _CREATES, str(data), unheld], stdout=subprocess.PIPE, text=True
    )
    assert engine.stdout is not None
    guests = [int(engine.stdout.readline()) for _ in range(20)]
    pidfds = [os.pidfd_open(pid) for pid in guests]
    engine.kill()
    engine.wait()
    engine.stdout.close()
    with anyio.fail_after(10):
        for pidfd in pidfds:
            await anyio.wait_readable(pidfd)
            os.close(pidfd)
    (dead,) = (entry.name for entry in (data / "owners").iterdir())
    async with Engine(data_dir=data, launcher="namespaces") as following:
        assert dead not in {entry.name for entry in (data / "owners").iterdir()}
        assert not list(
            Path("/sys/fs/cgroup").rglob(f"atoll/{kernel_name(data / 'owners' / dead)}")
        )
        assert (await (await create(following, limits)).run_code("3")).text == "3"
