"""Cgroups of this machine's kernel: version 1 as root, and the unified mount for version 2."""

from __future__ import annotations

import contextlib
import os
import resource
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from atoll.launch.linux.cgroups import Cgroups, owners, reap
from atoll.launch.linux.cgroups_cgroup import Cgroup
from atoll.launch.linux.cgroups_detect import Layout, detect
from atoll.launch.linux.cgroups_tree import Tree
from atoll.launch.linux.cgroups_v2 import CgroupV2
from atoll.model import Limits
from atoll.testing.waiting import eventually_holds

LAYOUT = detect()
UNIFIED = Path("/sys/fs/cgroup/unified")
limited = pytest.mark.skipif(
    LAYOUT.holds != {"memory", "cpu", "pids"},
    reason=f"cgroups cannot hold every limit here: {dict(LAYOUT.reason)}",
)
unified = pytest.mark.skipif(
    not os.access(UNIFIED / "cgroup.procs", os.W_OK), reason=f"{UNIFIED} is not writable"
)


@pytest.fixture
def cgroups() -> Iterator[Cgroups]:
    made = Cgroups(f"test-{secrets.token_hex(4)}", LAYOUT)
    yield made
    assert made.remove()
    assert made.owner not in owners(LAYOUT)


@pytest.fixture
def on_unified(tmp_path: Path) -> Iterator[CgroupV2]:
    directory = UNIFIED / f"atoll-test-{secrets.token_hex(4)}"
    directory.mkdir()
    tree = Tree(directory)
    cgroup = CgroupV2("box", tree, frozenset())
    cgroup.make()
    yield cgroup
    assert cgroup.kill()
    assert cgroup.remove()
    tree.close()
    directory.rmdir()


def start(code: str, cgroup: Cgroup) -> subprocess.Popen[bytes]:
    """Python code in a child that has joined the cgroup before it runs."""
    descriptors = cgroup.join_descriptors() or (
        os.open(cgroup.paths[0] / "cgroup.procs", os.O_WRONLY | os.O_CLOEXEC),
    )

    def join() -> None:
        # A failing test must not leave a child that spins for ever.
        resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
        for descriptor in descriptors:
            os.write(descriptor, b"0")

    try:
        return subprocess.Popen([sys.executable, "-S", "-c", code], preexec_fn=join)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


@contextlib.contextmanager
def running(code: str, cgroup: Cgroup) -> Iterator[subprocess.Popen[bytes]]:
    child = start(code, cgroup)
    try:
        yield child
    finally:
        assert cgroup.kill()
        child.wait()


@limited
def test_memory_is_held_and_counted(cgroups: Cgroups) -> None:
    cgroup = cgroups.create("box", Limits(memory="32M"))
    with running("x = bytearray(256 << 20)", cgroup) as child:
        assert child.wait(20) == -signal.SIGKILL
    assert cgroup.oom_kills() >= 1
    peak = cgroup.memory_peak()
    assert peak is None or 16 << 20 < peak <= 32 << 20


@limited
def test_pids_are_held_and_counted(cgroups: Cgroups) -> None:
    cgroup = cgroups.create("box", Limits(pids=8))
    code = (
        "import os, time\n"
        "made = 0\n"
        "try:\n"
        "    while made < 50:\n"
        "        if os.fork() == 0: time.sleep(100)\n"
        "        made += 1\n"
        "except BlockingIOError: pass\n"
        "os._exit(made)"
    )
    with running(code, cgroup) as child:
        assert child.wait(20) == 7
        assert cgroup.pids_denied() >= 1
        assert (cgroup.pids() or 0) <= 8


@limited
def test_cpu_is_held_and_counted(cgroups: Cgroups) -> None:
    cgroup = cgroups.create("box", Limits(cpu=0.1))
    with running("while True: pass", cgroup):
        assert eventually_holds(lambda: (cgroup.cpu_time() or 0) > 0.01)
        before = cgroup.cpu_time() or 0
        time.sleep(1.0)
        assert (cgroup.cpu_time() or 0) - before < 0.25


@limited
def test_freeze_stops_and_thaw_goes_on(cgroups: Cgroups) -> None:
    cgroup = cgroups.create("box", Limits())
    with running("while True: pass", cgroup):
        assert eventually_holds(lambda: (cgroup.cpu_time() or 0) > 0.01)
        cgroup.freeze()
        before = cgroup.cpu_time()
        time.sleep(0.1)
        assert cgroup.cpu_time() == before
        cgroup.thaw()
        assert eventually_holds(lambda: (cgroup.cpu_time() or 0) > (before or 0))


@limited
def test_kill_reaches_a_fork_bomb_that_ignores_signals(cgroups: Cgroups) -> None:
    cgroup = cgroups.create("box", Limits(pids=64))
    code = (
        "import os, signal\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "while True:\n"
        "    try:\n"
        "        if os.fork() == 0: os.setsid()\n"
        "    except OSError: pass"
    )
    with running(code, cgroup):
        assert eventually_holds(lambda: (cgroup.pids() or 0) >= 60)
        assert cgroup.kill()
        assert cgroup.is_empty()
    assert cgroup.remove()
    assert cgroups.names() == []


@limited
def test_kill_reaches_a_frozen_sandbox(cgroups: Cgroups) -> None:
    cgroup = cgroups.create("box", Limits())
    with running("while True: pass", cgroup) as child:
        cgroup.freeze()
        assert cgroup.kill()
        assert child.wait(5) == -signal.SIGKILL


@limited
def test_attach_moves_a_process_in(cgroups: Cgroups) -> None:
    cgroup = cgroups.create("box", Limits())
    with subprocess.Popen(["/bin/sleep", "100"]) as child:
        cgroup.attach(child.pid)
        assert cgroup.processes() == [child.pid]
        assert cgroup.kill()


@limited
def test_the_kernel_sees_it_where_the_check_will_look(cgroups: Cgroups) -> None:
    cgroup = cgroups.create("box", Limits())
    with running("import time; time.sleep(100)", cgroup) as child:
        text = Path(f"/proc/{child.pid}/cgroup").read_text()
    paths = {}
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        paths.update(dict.fromkeys(controllers.split(","), path))
    for controller, suffix in cgroup.paths_inside().items():
        assert paths[controller].endswith(suffix), controller


@limited
def test_create_of_a_taken_name_fails_and_leaves_the_first(cgroups: Cgroups) -> None:
    first = cgroups.create("box", Limits(pids=5))
    with pytest.raises(FileExistsError):
        cgroups.create("box", Limits())
    assert all(path.is_dir() for path in first.paths)


@limited
def test_remove_refuses_while_somebody_is_inside(cgroups: Cgroups) -> None:
    cgroup = cgroups.create("box", Limits())
    with running("import time; time.sleep(100)", cgroup):
        assert not cgroup.remove(0.01)
    assert cgroup.remove()
    assert cgroup.remove()


@limited
def test_a_dead_owner_is_reaped_with_its_processes() -> None:
    dead = Cgroups(f"dead-{secrets.token_hex(4)}", LAYOUT)
    cgroup = dead.create("box", Limits())
    child = start("import time; time.sleep(100)", cgroup)
    dead.close()
    assert dead.owner in owners(LAYOUT)
    assert reap(dead.owner, LAYOUT)
    assert child.wait(5) == -signal.SIGKILL
    assert dead.owner not in owners(LAYOUT)


@limited
@pytest.mark.skipif(LAYOUT.version != 1, reason="half-made cgroups are of version 1")
def test_a_half_made_cgroup_is_reaped() -> None:
    dead = Cgroups(f"dead-{secrets.token_hex(4)}", LAYOUT)
    (dead.layout.bases["pids"] / "atoll" / dead.owner / "box").mkdir()
    dead.close()
    assert reap(dead.owner, LAYOUT)
    assert dead.owner not in owners(LAYOUT)


@limited
def test_two_hundred_creates_leave_no_descriptor(cgroups: Cgroups) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for turn in range(200):
        cgroup = cgroups.create(f"box{turn}", Limits())
        assert cgroup.remove()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@unified
def test_unified_kill_freeze_and_cpu_time(on_unified: CgroupV2) -> None:
    with running("while True: pass", on_unified) as child:
        assert eventually_holds(lambda: (on_unified.cpu_time() or 0) > 0.02)
        on_unified.freeze()
        before = on_unified.cpu_time()
        time.sleep(0.1)
        assert on_unified.cpu_time() == before
        assert not on_unified.is_empty()
        assert on_unified.kill()
        assert child.wait(5) == -signal.SIGKILL
    assert on_unified.is_empty()


@unified
def test_unified_kill_without_cgroup_kill(
    on_unified: CgroupV2, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Tree.write

    def write(tree: Tree, name: str, file: str, value: str) -> None:
        if file == "cgroup.kill":
            raise FileNotFoundError(file)
        real(tree, name, file, value)

    monkeypatch.setattr(Tree, "write", write)
    code = "import os\nfor _ in range(5): os.fork()\nwhile True: pass"
    with running(code, on_unified) as child:
        assert eventually_holds(lambda: len(on_unified.processes()) >= 2)
        assert on_unified.kill()
        assert child.wait(5) == -signal.SIGKILL


@unified
def test_unified_counts_nothing_without_controllers(on_unified: CgroupV2) -> None:
    on_unified.apply(Limits(memory=None, cpu=None, pids=None))
    assert on_unified.memory() is None
    assert on_unified.memory_peak() is None
    assert on_unified.pids() is None
    assert on_unified.oom_kills() == on_unified.pids_denied() == 0


def test_a_layout_without_cgroups_leaves_no_trace() -> None:
    cgroups = Cgroups("nobody", Layout(0, reason=dict.fromkeys(("memory", "cpu", "pids"), "-")))
    assert cgroups.kind == "none"
    assert cgroups.names() == []
    assert cgroups.remove()
