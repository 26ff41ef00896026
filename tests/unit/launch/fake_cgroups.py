"""A cgroup version 2 hierarchy of plain files, with what the kernel would put into it."""

from __future__ import annotations

import shutil
from pathlib import Path

from atoll.launch.linux.cgroups_tree import Tree

FILES = {
    "cgroup.type": "domain",
    "cgroup.procs": "",
    "cgroup.events": "populated 0\nfrozen 0\n",
    "cgroup.freeze": "0",
    "cgroup.kill": "",
    "cgroup.subtree_control": "",
    "cpu.stat": "usage_usec 1500000\nuser_usec 1000000\n",
    "cpu.max": "max 100000",
    "memory.max": "max",
    "memory.swap.max": "max",
    "memory.oom.group": "0",
    "memory.current": "4096",
    "memory.peak": "8192",
    "memory.events": "low 0\noom 3\noom_kill 2\n",
    "pids.max": "max",
    "pids.current": "3",
    "pids.events": "max 5\n",
}


def fill(directory: Path, controllers: str = "cpu memory pids", **files: str) -> Path:
    """Make a cgroup directory with every file."""
    directory.mkdir(parents=True, exist_ok=True)
    content = {**FILES, "cgroup.controllers": controllers, **files}
    for name, text in content.items():
        (directory / name).write_text(text)
    return directory


class FakeTree(Tree):
    """Plays the kernel's part: files come and go with the directory."""

    left_out: frozenset[str] = frozenset()

    def make(self, name: str) -> None:
        (self.path / name).mkdir()
        fill(self.path / name)
        for file in self.left_out:
            (self.path / name / file).unlink()

    def remove(self, name: str) -> None:
        shutil.rmtree(self.path / name)

    def dissolve(self) -> bool:
        shutil.rmtree(self.path)
        return True


def machine(root: Path, own: str, *, cgroups: dict[str, str]) -> Path:
    """A root with /proc and a version 2 mount: cgroup path to the controllers that it offers."""
    proc = root / "proc/self"
    proc.mkdir(parents=True)
    (proc / "cgroup").write_text(f"0::{own}\n")
    (proc / "mountinfo").write_text(
        "22 1 0:20 / /proc rw - proc proc rw\n"
        "30 22 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
    )
    for path, controllers in cgroups.items():
        fill(root / "sys/fs/cgroup" / path.lstrip("/"), controllers)
    top = root / "sys/fs/cgroup"
    if (top / "cgroup.type").exists():
        (top / "cgroup.type").unlink()
    return root
