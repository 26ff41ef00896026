"""A named owner is killed with SIGKILL; its next life takes its sandboxes over, or removes them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest

from atoll.engine import Engine
from atoll.engine.owner import kernel_name
from atoll.model import Limits

pytestmark = pytest.mark.anyio

_DAEMON = """
import sys, anyio
from pathlib import Path
from atoll import Engine, Limits

async def main():
    limits = Limits(**{name: None for name in sys.argv[2].split(",") if name})
    engine = Engine(data_dir=Path(sys.argv[1]), launcher="namespaces", owner="daemon")
    async with engine:
        for number in range(int(sys.argv[3])):
            sandbox = await engine.create("base", limits=limits, metadata={"number": str(number)})
            if "work" in sys.argv:
                await sandbox.run_code(f"mine = {number}")
                await sandbox.files.write("/home/user/mine", str(number))
                orphan = "(setsid sh -c 'echo $$ > orphan; exec sleep 1000' &)"
                command = f"{orphan}; sleep 1000"
                await sandbox.commands.run(command, background=True, tag="job")
                await sandbox.commands.run("until [ -s orphan ]; do :; done")
            print(sandbox.id, flush=True)
        await anyio.sleep_forever()

anyio.run(main)
"""


@contextmanager
def killed_daemon(data: Path, limits: Limits, *words: str, after: int) -> Iterator[list[str]]:
    """The ids that a daemon had acknowledged when it was killed."""
    unheld = ",".join(name for name in ("memory", "cpu") if getattr(limits, name) is None)
    command = [sys.executable, "-c", _DAEMON, str(data), unheld, *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as daemon:
        assert daemon.stdout is not None
        made = [daemon.stdout.readline().strip() for _ in range(after)]
        daemon.kill()
    yield made


async def test_files_variables_and_commands_outlive_their_daemon(
    tmp_path: Path, limits: Limits
) -> None:
    data = tmp_path / "data"
    with killed_daemon(data, limits, "3", "work", after=3) as made:
        async with Engine(data_dir=data, launcher="namespaces", owner="daemon") as engine:
            assert [info.id for info in engine.list()] == made
            for number, info in enumerate(engine.list()):
                sandbox = await engine.get(info.id)
                assert info.metadata == {"number": str(number)}
                assert await sandbox.files.read("/home/user/mine") == str(number)
                assert (await sandbox.run_code("mine")).text == str(number)
                (job,) = sandbox.commands.list()
                assert job.tag == "job"
                alive = ["sh", "-c", "kill -0 $(cat orphan)"]
                assert (await sandbox.commands.run(alive)).ok
                assert await sandbox.commands.kill(job.pid)
                with anyio.fail_after(10):
                    while (await sandbox.commands.run(alive)).ok:
                        continue
            fresh = await engine.create("base", limits=limits)
            assert (await fresh.run_code("6 * 7")).text == "42"
        assert not list((data / "owners").iterdir())


async def test_what_was_acknowledged_in_the_middle_of_creates_is_there(
    tmp_path: Path, limits: Limits
) -> None:
    data = tmp_path / "data"
    daemon = kernel_name(data / "owners" / "daemon")
    with killed_daemon(data, limits, "100", after=25) as made:
        async with Engine(data_dir=data, launcher="namespaces", owner="daemon") as engine:
            listed = {info.id for info in engine.list()}
            assert set(made) <= listed
            async with anyio.create_task_group() as group:
                for id in listed:
                    group.start_soon(answers, engine, id)
            left = {path.name for path in Path("/sys/fs/cgroup").rglob(f"atoll/{daemon}/*/")}
            assert {name for name in left if not name.startswith("zygotes-")} <= listed
        assert not list(Path("/sys/fs/cgroup").rglob(f"atoll/{daemon}"))


async def answers(engine: Engine, id: str) -> None:
    sandbox = await engine.get(id)
    assert (await sandbox.commands.run(["true"])).ok
