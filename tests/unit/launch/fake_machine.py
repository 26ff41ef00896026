"""Machines of files for `doctor`: /proc, /sys and /etc as each kind of machine has them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from atoll.launch.linux.cgroups_detect import Layout
from atoll.launch.linux.doctor_machine import Machine
from atoll.launch.linux.walls_situation import Column, Situation

EVERY = frozenset({"memory", "cpu", "pids"})
WORKS = dict.fromkeys(
    (
        "user namespace",
        "mount in it",
        "overlay in it",
        "user attributes on tmpfs",
        "proc in it",
        "NAT in it",
        "seccomp",
    ),
    "",
)
REFUSED = "Operation not permitted (EPERM)"
MOUNTS = "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n23 22 0:20 / /proc rw - proc proc rw\n"
SYSCTLS = {
    "kernel/osrelease": "6.8.0-45-generic",
    "kernel/pid_max": "4194304",
    "user/max_user_namespaces": "63304",
    "user/max_mnt_namespaces": "63304",
    "fs/inotify/max_user_instances": "128",
    "fs/mount-max": "100000",
}


def machine(
    root: Path,
    *,
    sysctls: Mapping[str, str] | None = None,
    files: Mapping[str, str] | None = None,
    mounts: str = MOUNTS,
    probes: Mapping[str, str] | None = None,
    is_root: bool = False,
    sub_ids: bool = True,
    **more: Any,
) -> Machine:
    """An ordinary user's machine on which everything works, but for what is given."""
    content = {f"proc/sys/{name}": text for name, text in {**SYSCTLS, **(sysctls or {})}.items()}
    content["proc/self/mountinfo"] = mounts
    content["etc/os-release"] = 'NAME="Ubuntu"\nPRETTY_NAME="Ubuntu 24.04.1 LTS"\n'
    for name, text in {**content, **(files or {})}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    here = Situation(
        Column.ROOT if is_root else Column.ROOTLESS_DELEGATED,
        EVERY,
        counts_cpu_time=True,
        sub_ids=sub_ids,
        account="ada",
    )
    values: dict[str, Any] = {
        "layout": Layout(2, controllers=EVERY),
        "situation": here,
        "machine": "x86_64",
        "executable": Path("/home/ada/atoll/.venv/bin/python3.12"),
        "prefix": Path("/home/ada/atoll/.venv"),
        "environment": {"HOME": "/home/ada", "USER": "ada"},
    }
    found = {**WORKS, **(probes or {})}
    return Machine(root=root, probes=found, is_root=is_root, **{**values, **more})
