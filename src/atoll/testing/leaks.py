"""What sandboxes may leave behind on a machine: seen before and after, and compared.

    before = Snapshot.take(data_dir)
    ...
    assert not Snapshot.take(data_dir).diff(before)

Only what can be this process's own is looked at, so that another user of the machine does not make
a test fail: its descendants (see `adopt_orphans`), its descriptors, mounts and cgroups that bear
Atoll's name, and its data directory.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36
_NAMESPACES = ("mnt", "pid", "net", "ipc", "uts", "user", "cgroup")
# What a data directory keeps on purpose, and what is rebuilt there.
_KEPT = frozenset({"layers", "templates", "bubblewrap"})


@contextlib.contextmanager
def adopt_orphans() -> Iterator[None]:
    """While it lasts, processes that lose their parent become ours, and so stay in sight."""
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        libc.prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


@dataclass(frozen=True)
class Snapshot:
    """The state of this machine as far as Atoll can change it.

    Attributes:
        processes: pid and name of every living descendant; zombies wait for their parent only.
        namespaces: kind and inode of every namespace that a descendant is in and we are not.
        mounts: mount points that bear Atoll's name or lie in the data directory.
        cgroups: directories below an ``atoll`` directory in any hierarchy.
        descriptors: this process's open descriptors, counted by what they are.
        files: paths in the data directory, templates left out.
    """

    processes: frozenset[str] = frozenset()
    namespaces: frozenset[str] = frozenset()
    mounts: frozenset[str] = frozenset()
    cgroups: frozenset[str] = frozenset()
    descriptors: Counter[str] = field(default_factory=Counter)
    files: frozenset[str] = frozenset()

    @classmethod
    def take(cls, data_dir: Path | None = None, owners: str = "") -> Snapshot:
        """Look at the machine now.

        Args:
            data_dir: an engine's.
            owners: how the names of the owners begin whose cgroups are looked at; empty: all.
        """
        descendants = _descendants(os.getpid())
        return cls(
            processes=frozenset(f"{pid} {name}" for pid, name in descendants.items()),
            namespaces=frozenset(_namespaces(descendants)),
            mounts=frozenset(_mounts(data_dir)),
            cgroups=frozenset(_cgroups({*descendants, os.getpid()}, owners)),
            descriptors=Counter(_descriptors()),
            files=frozenset(_files(data_dir)) if data_dir else frozenset(),
        )

    def diff(self, before: Snapshot) -> list[str]:
        """What is there now and was not before, in words; empty if nothing leaked."""
        found = []
        for name in ("processes", "namespaces", "mounts", "cgroups", "files"):
            added = sorted(getattr(self, name) - getattr(before, name))
            found += [f"{name}: {what}" for what in added]
        more = self.descriptors - before.descriptors
        found += [f"descriptors: {count} more of {kind}" for kind, count in sorted(more.items())]
        return found


def mounts_below(path: Path) -> list[str]:
    """Mount points at or below `path`; whoever removes a tree must find none of them first."""
    top = str(path)
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [point for point in points if point == top or point.startswith(f"{top}/")]


@contextlib.contextmanager
def scratch_directory() -> Iterator[Path]:
    """A new directory that every account may enter; removed unless something is mounted in it.

    Raises:
        RuntimeError: at the end, if something is mounted in it; then nothing is removed, because a
            removal would go on in whatever is mounted there.
    """
    path = Path(tempfile.mkdtemp(prefix="atoll-test-", dir="/var/tmp"))
    path.chmod(0o755)
    yield path
    if mounts := mounts_below(path):
        raise RuntimeError(f"mounts were left behind, so {path} was not removed: {mounts}")
    shutil.rmtree(path)


def _descendants(root: int) -> dict[int, str]:
    children: dict[int, list[int]] = {}
    names: dict[int, str] = {}
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        try:
            head, _, tail = Path(entry.path, "stat").read_text().rpartition(")")
        except OSError:
            continue  # it ended while we looked
        state, parent = tail.split()[:2]
        children.setdefault(int(parent), []).append(int(entry.name))
        if state not in ("Z", "X"):
            names[int(entry.name)] = head.partition("(")[2]
    found = []
    pending = [root]
    while pending:
        below = children.get(pending.pop(), [])
        found += below
        pending += below
    return {pid: names[pid] for pid in found if pid in names}


def _namespaces(pids: dict[int, str]) -> Iterator[str]:
    own = {name: str(Path(f"/proc/self/ns/{name}").readlink()) for name in _NAMESPACES}
    for pid in pids:
        for name in _NAMESPACES:
            try:
                link = str(Path(f"/proc/{pid}/ns/{name}").readlink())
            except OSError:
                continue
            if link != own[name]:
                yield link


def _mounts(data_dir: Path | None) -> Iterator[str]:
    marks = ["atoll", *([str(data_dir)] if data_dir else [])]
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        kind = fields[fields.index("-") + 1]
        point = fields[4]
        if any(mark in point for mark in marks) or (kind == "nsfs" and "atoll" in line):
            yield f"{kind} on {point}"


def _cgroups(own: set[int], owners: str) -> Iterator[str]:
    """Directories of owners whose cgroups hold no process of somebody else."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        if not fields[fields.index("-") + 1].startswith("cgroup"):
            continue
        for top in _directories_named("atoll", Path(fields[4])):
            for owner in top.iterdir():
                if owner.is_dir() and owner.name.startswith(owners):
                    tree = [owner, *(p for p in _below(owner))]
                    if not any(_pids(directory) - own for directory in tree):
                        yield from (str(directory) for directory in tree)


def _directories_named(name: str, root: Path) -> Iterator[Path]:
    return (path for path in _below(root) if path.name == name)


def _below(root: Path) -> Iterator[Path]:
    pending = [root]
    while pending:
        try:
            below = [Path(e.path) for e in os.scandir(pending.pop()) if e.is_dir()]
        except OSError:
            continue  # removed while we looked
        yield from below
        pending += below


def _pids(directory: Path) -> set[int]:
    try:
        return {int(line) for line in (directory / "cgroup.procs").read_text().split()}
    except OSError:
        return set()


def _descriptors() -> Iterator[str]:
    directory = Path("/proc/self/fd")
    for entry in os.scandir(directory):
        try:
            target = str(Path(entry.path).readlink())
        except OSError:
            continue  # the one that listed the directory
        if not target.startswith("/proc/self/fd") and not re.fullmatch(r"/proc/\d+/fd", target):
            # socket:[1234] counts as a socket: the numbers of two moments never match.
            yield re.sub(r":\[\d+\]", "", target)


def _files(data_dir: Path) -> Iterator[str]:
    pending = [data_dir]
    while pending:
        try:
            entries = list(os.scandir(pending.pop()))
        except OSError:
            continue
        for entry in entries:
            path = Path(entry.path).relative_to(data_dir)
            if path.parts[0] in _KEPT:
                continue
            yield str(path)
            if entry.is_dir(follow_symlinks=False):
                pending.append(Path(entry.path))
