"""The table of walls and limits: complete, honest, and what `create` refuses by it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from atoll.launch.linux import sub_ids, walls, walls_probe, walls_situation
from atoll.launch.linux.cgroups_detect import Layout
from atoll.launch.linux.walls_situation import Column, Situation
from atoll.launch.linux.walls_table import FEATURES, LIMITS, WALLS, VerdictKind
from atoll.model import Limits, LimitUnavailable, WallUnavailable

EVERY = frozenset({"memory", "cpu", "pids"})
WHY = dict.fromkeys(EVERY, "the cgroup of this process is not delegated to it")
ROOT = Situation(Column.ROOT, EVERY, counts_cpu_time=True)
DELEGATED = Situation(Column.ROOTLESS_DELEGATED, EVERY, counts_cpu_time=True, sub_ids=True)
BARE = Situation(Column.ROOTLESS, frozenset(), WHY, sub_ids=True, account="ada")
UNLIMITED = Limits(memory=None, cpu=None)


def test_every_limit_and_every_cell_is_there() -> None:
    assert tuple(row.name for row in LIMITS) == Limits.names()
    names = [row.name for row in (*WALLS, *LIMITS)]
    assert len(names) == len(set(names))
    for row in (*WALLS, *LIMITS):
        for column in Column:
            cell = row.of(column)
            assert cell.how, (row.name, column)
            assert bool(cell.fix) == (cell.kind is VerdictKind.REFUSED), (row.name, column)


def test_no_wall_is_refused_to_root() -> None:
    assert all(row.of(Column.ROOT).kind is VerdictKind.KEPT for row in (*WALLS, *LIMITS))


@pytest.mark.parametrize("situation", [ROOT, DELEGATED])
def test_default_limits_are_held_with_cgroups(situation: Situation) -> None:
    walls.require(Limits(cpu_time=5), situation)


def test_bare_refuses_memory_and_cpu_in_one_message() -> None:
    with pytest.raises(LimitUnavailable) as caught:
        walls.require(Limits(), BARE)
    text = str(caught.value)
    assert "limits memory, cpu cannot be held here: the cgroup of this process" in text
    assert "pass memory=None, cpu=None to go without these limits" in text
    assert text.count("systemd-run --user --scope -p Delegate=yes") == 1


def test_bare_holds_the_rest() -> None:
    walls.require(UNLIMITED, BARE)
    assert walls.verdicts(BARE)["pids"].kind is VerdictKind.SUBSTITUTE


def test_one_limit_is_named_with_its_reason_and_its_fix() -> None:
    with pytest.raises(LimitUnavailable) as caught:
        walls.require(replace(UNLIMITED, cpu_time=5.0), BARE)
    text = str(caught.value)
    assert "limit cpu_time cannot be held here: RLIMIT_CPU counts each process" in text
    assert "pass cpu_time=None" in text


def test_without_sub_ids_the_ids_are_not_its_own() -> None:
    with pytest.raises(WallUnavailable) as caught:
        walls.require(UNLIMITED, replace(BARE, sub_ids=False))
    text = str(caught.value)
    assert "own ids" in text
    assert "usermod --add-subuids 100000-165535 --add-subgids 100000-165535 ada" in text


def test_without_sub_ids_nothing_counts_processes() -> None:
    bare = replace(BARE, sub_ids=False)
    assert walls.verdicts(bare)["pids"].kind is VerdictKind.REFUSED


def test_a_missing_controller_is_refused_to_root_as_well() -> None:
    reason = {"memory": "no cgroup hierarchy with the controller 'memory' is mounted here"}
    here = Situation(Column.ROOT, frozenset({"cpu", "pids"}), reason, counts_cpu_time=True)
    with pytest.raises(LimitUnavailable, match="controller 'memory'"):
        walls.require(Limits(), here)
    walls.require(Limits(memory=None), here)


def test_cpu_time_needs_a_cgroup_that_counts_it() -> None:
    here = replace(ROOT, counts_cpu_time=False)
    with pytest.raises(LimitUnavailable, match="cpu_time"):
        walls.require(Limits(cpu_time=1), here)


def test_the_page_shows_the_table() -> None:
    page = (Path(__file__).parents[3] / "docs/security.md").read_text()
    assert walls.markdown() in page


def test_the_table_is_readable() -> None:
    text = walls.markdown()
    for row in (*WALLS, *LIMITS):
        assert f"**{row.name}**" in text
    assert "| the same | the same |" in text
    assert all(feature.name in text for feature in FEATURES)


def fake_root(tmp_path: Path, *, uid: int, capabilities: str, id_map: str) -> Path:
    proc = tmp_path / "proc/self"
    proc.mkdir(parents=True)
    (proc / "status").write_text(
        f"Name:\tpython\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\nCapEff:\t{capabilities}\n"
    )
    (proc / "uid_map").write_text(id_map)
    return tmp_path


FULL = "000001ffffffffff"
DOCKER = "00000000a80425fb"
FIRST = "         0          0 4294967295\n"


@pytest.mark.parametrize(
    ("uid", "capabilities", "id_map", "expected"),
    [
        (0, FULL, FIRST, True),
        (1000, "0000000000000000", FIRST, False),
        (0, DOCKER, FIRST, False),
        (0, FULL, "         0     100000      65536\n", False),
    ],
    ids=["root", "user", "root of a container", "root of a user namespace"],
)
def test_who_counts_as_root(
    tmp_path: Path, uid: int, capabilities: str, id_map: str, expected: bool
) -> None:
    root = fake_root(tmp_path, uid=uid, capabilities=capabilities, id_map=id_map)
    assert walls_situation.has_root(root) is expected


def test_the_column_follows_account_and_cgroups(tmp_path: Path) -> None:
    root = fake_root(tmp_path, uid=1000, capabilities="0", id_map=FIRST)
    bare = walls_situation.situation(root, Layout(0, reason=WHY))
    assert bare.column is Column.ROOTLESS
    assert not bare.counts_cpu_time
    layout = Layout(2, controllers=EVERY)
    delegated = walls_situation.situation(root, layout)
    assert delegated.column is Column.ROOTLESS_DELEGATED
    assert delegated.counts_cpu_time
    assert delegated.holds == EVERY


def test_sub_ids_are_needed_for_users_and_for_groups(tmp_path: Path) -> None:
    tools = bool(sub_ids.map_tools())
    assert not walls_situation.has_sub_ids(tmp_path)
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/subuid").write_text(f"{os.getuid()}:100000:65536\n")
    (tmp_path / "etc/subgid").write_text(f"{os.getuid()}:100000:16\n")
    assert not walls_situation.has_sub_ids(tmp_path)
    (tmp_path / "etc/subgid").write_text(f"{os.getuid()}:100000:65536\n")
    assert walls_situation.has_sub_ids(tmp_path) is tools


def test_this_kernel_answers() -> None:
    here = walls_situation.situation()
    assert here.features == {"mount_setattr": True, "clone3 into a cgroup": True}


def test_the_probe_tries_everything_and_leaves_no_mount() -> None:
    before = Path("/proc/self/mountinfo").read_text()
    found = walls_probe.run()
    wanted = {"user namespace", "mount in it", "overlay in it", "user attributes on tmpfs"}
    assert wanted | {"proc in it", "seccomp"} <= set(found)
    assert ("idmapped lower" in found) == (os.geteuid() == 0)
    assert found["seccomp"] == ""
    assert Path("/proc/self/mountinfo").read_text() == before


def test_a_probe_that_does_not_answer_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walls_probe, "_ENTRY", "import time; time.sleep(100)")
    monkeypatch.setattr(walls_probe, "PATIENCE", 0.2)
    assert "did not answer" in walls_probe.run()["user namespace"]
