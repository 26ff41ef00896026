"""Version 2, on a hierarchy of plain files: what is written where, and what is chosen."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from fake_cgroups import FakeTree, fill, machine

from atoll.launch.linux import cgroups_cgroup
from atoll.launch.linux.cgroups import Cgroups, owners, reap
from atoll.launch.linux.cgroups_detect import Layout, detect
from atoll.launch.linux.cgroups_v2 import CgroupV2
from atoll.model import InvalidArgument, InvalidLimit, Limits, LimitUnavailable

SCOPE = "/user.slice/user-0.slice/session-1.scope"
NOTHING = Limits(memory=None, cpu=None, pids=None)


def on_a_server(tmp_path: Path) -> Layout:
    """Root in a login session of a systemd machine."""
    every = {path: "cpu memory pids" for path in ("/", SCOPE, "/user.slice/user-0.slice")}
    return detect(machine(tmp_path, SCOPE, cgroups=every))


def prepared(tmp_path: Path, owner: str = "me") -> Cgroups:
    layout = on_a_server(tmp_path)
    for directory in ("atoll", f"atoll/{owner}"):
        fill(layout.bases["unified"] / directory)
    return Cgroups(owner, layout, tree=FakeTree)


def content(cgroup: CgroupV2, file: str) -> str:
    return (cgroup.paths[0] / file).read_text()


def created(cgroups: Cgroups, limits: Limits, name: str = "box") -> CgroupV2:
    cgroup = cgroups.create(name, limits)
    assert isinstance(cgroup, CgroupV2)
    return cgroup


def test_a_session_puts_sandboxes_beside_itself(tmp_path: Path) -> None:
    layout = on_a_server(tmp_path)
    assert layout.version == 2
    assert layout.bases["unified"] == tmp_path / "sys/fs/cgroup/user.slice/user-0.slice"
    assert layout.holds == {"memory", "cpu", "pids"}
    assert not layout.evict


def test_the_top_of_the_hierarchy_takes_sandboxes_itself(tmp_path: Path) -> None:
    layout = detect(machine(tmp_path, "/", cgroups={"/": "cpu memory pids"}))
    assert layout.bases["unified"] == tmp_path / "sys/fs/cgroup"
    assert not layout.evict


def test_the_top_of_a_container_moves_its_processes_into_a_leaf(tmp_path: Path) -> None:
    root = machine(tmp_path, "/", cgroups={"/": "cpu memory pids"})
    top = root / "sys/fs/cgroup"
    (top / "cgroup.type").write_text("domain")
    layout = detect(root)
    assert layout.bases["unified"] == top
    assert layout.evict


def test_a_delegated_cgroup_is_used_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getxattr", lambda path, name: b"1")
    layout = on_a_server(tmp_path)
    assert layout.bases["unified"] == tmp_path / "sys/fs/cgroup" / SCOPE.lstrip("/")
    assert layout.evict


def test_an_undelegated_cgroup_holds_nothing_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    layout = on_a_server(tmp_path)
    assert layout.version == 0
    assert layout.holds == frozenset()
    cgroups = Cgroups("me", layout)
    with pytest.raises(LimitUnavailable, match=r"limit memory .* not delegated") as caught:
        cgroups.create("box", Limits())
    assert "pass memory=None" in str(caught.value)
    assert "systemd-run --user --scope -p Delegate=yes" in str(caught.value)
    nothing = cgroups.create("box", NOTHING)
    assert nothing.paths == ()
    assert nothing.kill()
    assert nothing.remove()


def test_a_missing_controller_refuses_only_its_limit(tmp_path: Path) -> None:
    every = {path: "memory pids" for path in ("/", SCOPE, "/user.slice/user-0.slice")}
    layout = detect(machine(tmp_path, SCOPE, cgroups=every))
    assert layout.holds == {"memory", "pids"}
    assert "controller 'cpu'" in layout.reason["cpu"]


def test_no_hierarchy_at_all(tmp_path: Path) -> None:
    layout = detect(tmp_path)
    assert layout.version == 0
    assert set(layout.reason) == {"memory", "cpu", "pids"}


def test_controllers_are_turned_on_down_to_the_owner(tmp_path: Path) -> None:
    cgroups = prepared(tmp_path)
    base = cgroups.layout.bases["unified"]
    for directory in (base, base / "atoll", base / "atoll/me"):
        # Plain files keep only the last of the three writes.
        assert (directory / "cgroup.subtree_control").read_text() == "+pids"


def test_eviction_moves_every_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = on_a_server(tmp_path)
    base = layout.bases["unified"]
    for directory in ("atoll", "atoll/me", "atoll-engine"):
        fill(base / directory)
    (base / "cgroup.procs").write_text("")
    Cgroups("me", Layout(2, layout.bases, layout.mounts, layout.controllers, evict=True))
    (base / "cgroup.procs").write_text("12\n13\n")
    with pytest.raises(LimitUnavailable, match="cannot be moved"):
        Cgroups("me", Layout(2, layout.bases, layout.mounts, layout.controllers, evict=True))
    assert (base / "atoll-engine/cgroup.procs").read_text() == "13"


def test_limits_are_written_as_the_kernel_wants_them(tmp_path: Path) -> None:
    cgroup = created(prepared(tmp_path), Limits(memory="64M", cpu=0.5, pids=17))
    assert content(cgroup, "memory.max") == str(64 << 20)
    assert content(cgroup, "memory.swap.max") == "0"
    assert content(cgroup, "memory.oom.group") == "1"
    assert content(cgroup, "cpu.max") == "50000 100000"
    assert content(cgroup, "pids.max") == "17"


def test_none_leaves_the_kernels_default(tmp_path: Path) -> None:
    cgroup = created(prepared(tmp_path), NOTHING)
    for file in ("memory.max", "pids.max", "memory.swap.max"):
        assert content(cgroup, file) == "max"
    assert content(cgroup, "cpu.max") == "max 100000"


@pytest.mark.parametrize(
    ("cores", "written"),
    [
        (1.0, "100000 100000"),
        (2.5, "250000 100000"),
        (0.005, "5000 1000000"),
        (0.01, "1000 100000"),
    ],
)
def test_cpu_as_quota_and_period(tmp_path: Path, cores: float, written: str) -> None:
    assert content(created(prepared(tmp_path), Limits(cpu=cores)), "cpu.max") == written


def test_less_cpu_than_the_kernel_can_count_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    cgroups = prepared(tmp_path)
    with pytest.raises(InvalidLimit, match=r"at least 0\.001"):
        cgroups.create("box", Limits(cpu=0.0001))
    assert cgroups.names() == []


def test_what_it_uses(tmp_path: Path) -> None:
    cgroup = created(prepared(tmp_path), Limits())
    assert cgroup.cpu_time() == 1.5
    assert cgroup.memory() == 4096
    assert cgroup.memory_peak() == 8192
    assert cgroup.pids() == 3
    assert cgroup.oom_kills() == 2
    assert cgroup.pids_denied() == 5


def test_an_older_kernel_has_no_peak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeTree, "left_out", frozenset({"memory.peak", "memory.swap.max"}))
    assert created(prepared(tmp_path), Limits()).memory_peak() is None


def test_attach(tmp_path: Path) -> None:
    cgroup = created(prepared(tmp_path), Limits())
    cgroup.attach(4711)
    assert content(cgroup, "cgroup.procs") == "4711"
    assert cgroup.processes() == [4711]
    assert cgroup.join_descriptors() == ()


def test_processes_may_be_cloned_in_by_whoever_is_handed_the_closed_directory(
    tmp_path: Path,
) -> None:
    cgroups = prepared(tmp_path)
    cgroup = created(cgroups, Limits())
    assert cgroups.clone_root == cgroup.paths[0].parent
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in cgroup.paths[0].parent.rglob("*")}
    assert stat.S_IMODE(cgroups.clone_root.stat().st_mode) == 0o700
    opened = {path for path, mode in modes.items() if mode & 0o022}
    assert opened == {cgroups.clone_root / "cgroup.procs", cgroup.paths[0] / "cgroup.procs"}


def test_where_the_path_is_seen(tmp_path: Path) -> None:
    assert created(prepared(tmp_path), Limits()).paths_inside() == {"": "/atoll/me/box"}


def test_freeze_waits_for_the_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroups_cgroup, "_FREEZE_PATIENCE", 0.01)
    cgroup = created(prepared(tmp_path), Limits())
    events = cgroup.paths[0] / "cgroup.events"
    with pytest.raises(LimitUnavailable, match="did not stop"):
        cgroup.freeze()
    assert content(cgroup, "cgroup.freeze") == "0"
    events.write_text("populated 1\nfrozen 1\n")
    cgroup.freeze()
    assert content(cgroup, "cgroup.freeze") == "1"
    cgroup.thaw()
    assert content(cgroup, "cgroup.freeze") == "0"


def test_kill_is_one_write_and_bounded(tmp_path: Path) -> None:
    cgroup = created(prepared(tmp_path), Limits())
    assert cgroup.kill(0.01)
    assert content(cgroup, "cgroup.kill") == ""
    (cgroup.paths[0] / "cgroup.events").write_text("populated 1\n")
    assert not cgroup.kill(0.01)
    assert content(cgroup, "cgroup.kill") == "1"


def test_names_must_be_plain(tmp_path: Path) -> None:
    cgroups = prepared(tmp_path)
    for name in ("", "..", "a/b", "cgroup.procs", "x\0", "x" * 201):
        with pytest.raises(InvalidArgument):
            cgroups.create(name, Limits())


def test_a_dead_owner_is_found_and_reaped(tmp_path: Path) -> None:
    cgroups = prepared(tmp_path, "dead")
    created(cgroups, Limits(), "left")
    fill(cgroups.layout.bases["unified"] / "atoll/alive")
    cgroups.close()
    layout = detect(tmp_path)
    assert owners(layout) == ["alive", "dead"]
    assert reap("dead", layout, tree=FakeTree)
    assert owners(layout) == ["alive"]
    assert reap("dead", layout, tree=FakeTree)
