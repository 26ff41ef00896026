"""Where sandboxes are put on cgroup v2, on the kernel's unified hierarchy, and who may do it."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from atoll.engine import Engine, Sandbox
from atoll.launch.linux import syscalls
from atoll.launch.linux.cgroups import Cgroups
from atoll.launch.linux.cgroups_detect import Layout
from atoll.launch.linux.cgroups_tree import Tree
from atoll.launch.linux.namespaces import NamespacesLauncher
from atoll.model import Limits
from atoll.testing.leaks import scratch_directory

UNIFIED = Path("/sys/fs/cgroup/unified")
NOTHING = Limits(memory=None, cpu=None, pids=None)
STRANGER = 1_900_000_000

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(
        not os.access(UNIFIED / "cgroup.procs", os.W_OK), reason=f"{UNIFIED} is not writable"
    ),
]


class Recording(Tree):
    """A tree that keeps in mind whose `cgroup.procs` was written to."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.attached: list[str] = []

    def write(self, name: str, file: str, value: str) -> None:
        if file == "cgroup.procs":
            self.attached.append(name)
        super().write(name, file, value)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def trees() -> list[Recording]:
    return []


@pytest.fixture
def cgroups(trees: list[Recording]) -> Iterator[Cgroups]:
    def tree(path: Path) -> Tree:
        trees.append(Recording(path))
        return trees[-1]

    layout = Layout(2, bases={"unified": UNIFIED}, mounts={"unified": UNIFIED})
    made = Cgroups(f"test-{secrets.token_hex(4)}", layout, tree=tree)
    yield made
    made.remove()
    assert made.clone_root is None or not made.clone_root.exists()


@pytest.fixture
def data_dir() -> Iterator[Path]:
    with scratch_directory() as path:
        yield path


@pytest.fixture
def launcher(data_dir: Path, cgroups: Cgroups) -> Any:
    return NamespacesLauncher(data_dir, cgroups=cgroups)


async def made(engine: Engine) -> Sandbox:
    sandbox = await engine.create("base", limits=NOTHING)
    assert (await sandbox.commands.run(["cat", "/proc/self/cgroup"])).stdout.endswith("0::/\n")
    assert (await sandbox.run_code("6 * 7")).text == "42"
    path = Path(f"/proc/{sandbox.info.pid}/cgroup").read_text()
    assert path.splitlines()[-1].endswith(f"/{sandbox.id}")
    return sandbox


async def test_a_guest_is_cloned_into_its_cgroup_and_never_moved(
    data_dir: Path, cgroups: Cgroups, launcher: Any, trees: list[Recording]
) -> None:
    async with Engine(data_dir=data_dir, launcher=launcher) as engine:
        sandbox = await engine.create("base", limits=NOTHING)
        assert (await sandbox.commands.run(["true"])).ok
        assert sandbox.id not in trees[0].attached
        assert sandbox.info.pid in cgroups.open(sandbox.id).processes()
        await made(engine)


async def test_where_it_cannot_be_cloned_into_it_the_host_moves_it(
    data_dir: Path, cgroups: Cgroups, launcher: Any, trees: list[Recording]
) -> None:
    assert cgroups.clone_root is not None
    (cgroups.clone_root / "cgroup.procs").chmod(0o644)
    async with Engine(data_dir=data_dir, launcher=launcher) as engine:
        sandbox = await made(engine)
        assert sandbox.id in trees[0].attached


HOSTILE = """
import os, sys
fd, host_pid, stranger = map(int, sys.argv[1:])
os.setgroups([])
os.setresgid(stranger, stranger, stranger)
os.setresuid(stranger, stranger, stranger)
opened = os.stat(".", dir_fd=fd).st_ino
def attempt(what, act):
    try:
        print(what, "did", act())
    except OSError as error:
        print(what, "failed", error.strerror)
def write(path, text, flags=os.O_WRONLY):
    out = os.open(path, flags, dir_fd=fd)
    try:
        return os.write(out, text)
    finally:
        os.close(out)
def climb(path):
    found = os.open(path, os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
    return os.listdir(found)
attempt("list above", lambda: climb(".."))
attempt("climb", lambda: climb("../../../../.."))
attempt("read host", lambda: os.open("../../../../../../etc/passwd", os.O_RDONLY, dir_fd=fd))
attempt("enter other", lambda: os.open("../other", os.O_PATH, dir_fd=fd))
attempt("make", lambda: os.mkdir("below", dir_fd=fd))
attempt("freeze", lambda: write("cgroup.freeze", b"1"))
attempt("kill", lambda: write("cgroup.kill", b"1"))
attempt("control", lambda: write("cgroup.subtree_control", b"+pids"))
attempt("chmod", lambda: os.chmod("cgroup.kill", 0o666, dir_fd=fd))
attempt("take host", lambda: write("cgroup.procs", str(host_pid).encode()))
attempt("take itself", lambda: write("cgroup.procs", b"0"))
"""


def test_whoever_is_handed_the_directory_gains_nothing_by_it(cgroups: Cgroups) -> None:
    """As the light zygote has it, but for its namespaces and filters: these hold by themselves."""
    cgroup = cgroups.create("box", NOTHING)
    cgroups.create("other", NOTHING)
    assert cgroups.clone_root is not None
    top = syscalls.open_tree(str(cgroups.clone_root))
    entrance = os.open("box", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=top)
    try:
        command = [sys.executable, "-I", "-S", "-c", HOSTILE]
        arguments = [str(number) for number in (entrance, os.getpid(), STRANGER)]
        done = subprocess.run(
            [*command, *arguments], pass_fds=[entrance], capture_output=True, text=True, check=True
        )
    finally:
        os.close(entrance)
        os.close(top)
    got_through = [line for line in done.stdout.splitlines() if " failed " not in line]
    assert len(done.stdout.splitlines()) == 11
    assert not got_through, done.stdout
    assert cgroup.is_empty()


def test_another_account_comes_nowhere_near(cgroups: Cgroups) -> None:
    cgroups.create("box", NOTHING)
    procs = f"{cgroups.clone_root}/box/cgroup.procs"
    code = f"import os\nos.setgid({STRANGER})\nos.setuid({STRANGER})\nopen({procs!r}, 'w')"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=False
    )
    assert "PermissionError" in done.stderr
