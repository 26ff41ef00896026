"""No probe is vacuous: where no wall is, each gets through.

Every probe of the suite runs here as root in throw-away namespaces with a canary beside it, and
must report that it was not blocked. A probe that only the host can judge is judged by its canary.
Where this machine's own kernel lacks what a probe is after, the test says so and is skipped.
"""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from atoll.testing.attacks.probes import (
    ends,
    files,
    hostile,
    identity,
    inherited,
    kernel_surface,
    namespaces,
    network,
    processes,
    resources,
)
from atoll.testing.attacks.probes.kit import Facts, Outcome
from atoll.testing.attacks.script import parse

MIB = 1 << 20
_UNSHARE = ("unshare", "--mount", "--pid", "--fork", "--mount-proc", "--net", "--uts", "--ipc")

pytestmark = pytest.mark.skipif(
    os.getuid() != 0, reason="only root can run a probe with every capability"
)


def bare(probe: Callable[[Facts], Outcome], **facts: Any) -> tuple[Outcome, list[str]]:
    """The outcome of a probe without walls, and what it did to the canary."""
    report = drive(probe, **facts)
    return parse(report["output"]), report["harmed"]


def drive(probe: Callable[[Facts], Outcome], **facts: Any) -> dict[str, Any]:
    """All that the driver tells of one probe."""
    driver = Path(__file__).with_name("bare_driver.py")
    command = [*_UNSHARE, "--kill-child", sys.executable, str(driver)]
    command += [probe.__module__, probe.__name__, json.dumps(facts)]
    # A session of its own: one probe hangs up its controlling terminal.
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=50, check=False, start_new_session=True
    )
    assert done.stdout, done.stderr
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return report


# Each probe with what it needs to get through; those with several facts several times.
GET_THROUGH: list[tuple[Callable[[Facts], Outcome], dict[str, Any]]] = [
    *((kernel_surface.attempt, {"attempt": name}) for name in kernel_surface.ATTEMPTS),
    (files.read_host_files, {}),
    (files.search_tree, {}),
    (files.open_devices, {}),
    (files.write_settings, {}),
    (files.read_kernel_files, {}),
    (files.read_host_facts, {}),
    (files.use_sysfs, {}),
    (files.leave_chroot, {}),
    (files.hard_link_foreign, {}),
    (files.mount_table, {"directories": ["/proc"]}),
    (identity.walls_on_self, {}),
    (identity.take_capabilities, {}),
    (identity.become_another, {}),
    (identity.gain_by_file, {}),
    (identity.drop_the_filter, {}),
    (identity.raise_limits, {}),
    (inherited.descriptors, {}),
    (inherited.environment, {}),
    (inherited.memory, {}),
    (inherited.attributes, {}),
    (inherited.host_name, {}),
    (namespaces.share_with_others, {}),
    (namespaces.write_cgroups, {}),
    (namespaces.release_agent, {"hierarchies": ["none,name=atoll"]}),
    (namespaces.own_cgroup_view, {}),
    (namespaces.change_maps, {}),
    (network.families, {}),
    (network.raw_sockets, {}),
    (network.connect, {}),
    (network.leave_the_machine, {}),
    (network.resolve, {"resolve": ["localhost"]}),
    (network.abstract_sockets, {}),
    (network.interfaces, {}),
    (network.ipc, {}),
    (processes.see_others, {}),
    (processes.trace, {}),
    (processes.type_into_terminal, {}),
    (processes.tioclinux, {}),
    (processes.leave_by_exec, {}),
    (ends.take_mark, {}),
    (resources.fork_bomb, {"goal": 300}),
    (resources.thread_bomb, {"goal": 300}),
    *((resources.memory_bomb, {"kind": k, "goal": 8 * MIB}) for k in resources.MEMORY_KINDS),
    (resources.fill_disk, {"directory": "/tmp", "goal": 8 * MIB}),
    (resources.fill_inodes, {"directory": "/tmp", "goal": 1000}),
    (resources.huge_file, {"directory": "/tmp", "goal": 8 * MIB}),
    (resources.open_files, {"goal": 600}),
    (resources.inotify, {"goal": 16}),
    (resources.spin, {"seconds": 0.5, "processes": 2, "goal": 0.2, "limit": 0.1}),
    (resources.dump_core, {"directory": "/tmp"}),
    (hostile.own_walls, {}),
    (hostile.mount_anything, {}),
]

# Judged by what they do, not by what they say; each has a test of its own here or in the suite:
# they end or are ended, and the host measures.
JUDGED_BY_HOST = {
    "signal_others",
    "signal_guest",
    "kill_everything",
    "leave_zombies",
    "write_template",
    "exponential_fork_bomb",
    "deep_directory",
    "flood",
    "outlive",
    "outrun",
    "stop_self",
    "make_lower_writable",
    "leave_helper",
    "use_up",
}


def _name(case: object) -> str:
    if callable(case):
        return getattr(case, "__name__", "probe")
    return "-".join(str(v) for v in case.values()) if isinstance(case, dict) else str(case)


@pytest.mark.parametrize(("probe", "facts"), GET_THROUGH, ids=_name)
def test_gets_through_where_no_wall_is(
    probe: Callable[[Facts], Outcome], facts: dict[str, Any]
) -> None:
    outcome, _ = bare(probe, **facts)
    if outcome.blocked and all("ENOSYS" in part for part in outcome.detail.split("; ")):
        pytest.skip(f"this kernel has it not at all: {outcome.detail}")
    assert not outcome.blocked, outcome.detail


def test_a_signal_from_outside_reaches_the_canary() -> None:
    _, harmed = bare(processes.signal_others)
    assert "signal 10" in harmed


def test_kill_everything_reaches_the_canary() -> None:
    _, harmed = bare(processes.kill_everything)
    assert "killed" in harmed


def test_a_write_to_the_template_changes_the_file() -> None:
    path = "/var/tmp/atoll-attack-file"
    report = drive(files.write_template, paths=[path], mark="owned", make=[path], look=[path])
    assert report["seen"] == {path: "beforeownedowned"}


def test_zombies_stay_where_nobody_reaps() -> None:
    outcome, _ = bare(processes.leave_zombies, count=5)
    assert not outcome.blocked


def test_a_writable_mount_is_written() -> None:
    target = "/var/tmp/atoll-attack-mount"
    look = [f"{target}/mark"]
    report = drive(hostile.make_lower_writable, mark="mark", targets=[target], look=look)
    assert report["seen"] == {f"{target}/mark": "mark"}


def test_nothing_of_a_bare_probe_reaches_this_machine() -> None:
    """The guard of all tests here: what a probe writes, mounts or removes stays in its own copy."""
    path = Path("/var/tmp/atoll-attack-file")
    drive(files.write_template, paths=[str(path)], mark="owned", make=[str(path)])
    assert not path.exists()
    before = _names()
    drive(kernel_surface.attempt, attempt="mount")
    assert before <= _names()
    assert "atoll-attack" not in Path("/proc/mounts").read_text()


def _names() -> set[str]:
    """What stands in the directories that a removal gone astray would reach first."""
    return {str(path) for place in ("/", "/etc", "/usr") for path in Path(place).iterdir()}


def test_every_probe_is_shown_to_get_through_or_judged_by_the_host() -> None:
    shown = {probe.__name__ for probe, _ in GET_THROUGH} | JUDGED_BY_HOST
    missing = [
        f"{module.__name__}.{name}"
        for module in _modules()
        for name, probe in inspect.getmembers(module, inspect.isfunction)
        if probe.__module__ == module.__name__ and not name.startswith("_") and name not in shown
    ]
    assert not missing


def _modules() -> list[ModuleType]:
    return [
        ends,
        files,
        hostile,
        identity,
        inherited,
        kernel_surface,
        namespaces,
        network,
        processes,
        resources,
    ]
