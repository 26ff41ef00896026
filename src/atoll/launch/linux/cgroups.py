"""The cgroups of one owner's sandboxes: ``<base>/atoll/<owner>/<sandbox>`` in each hierarchy.

Version 2 is the main way; version 1 is used where the machine still mounts its controllers so.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from atoll.launch.linux.cgroups_cgroup import Cgroup
from atoll.launch.linux.cgroups_detect import LIMIT_OF, Layout, detect
from atoll.launch.linux.cgroups_none import NoCgroup
from atoll.launch.linux.cgroups_tree import Tree, make_directory
from atoll.launch.linux.cgroups_v1 import CgroupV1
from atoll.launch.linux.cgroups_v2 import CgroupV2
from atoll.launch.linux.kept_files import DescriptorBudget
from atoll.model import InvalidArgument, Limits, LimitUnavailable

TOP = "atoll"
LEAF = "atoll-engine"
"""Where the processes of a delegated cgroup go, so that it may have controllers for children."""
_SEARCH_DEPTH = 8


class Cgroups:
    """Makes, finds and removes the cgroups of one owner."""

    def __init__(self, owner: str, layout: Layout, *, tree: Callable[[Path], Tree] = Tree) -> None:
        """Make the owner's directory in every hierarchy of `layout`.

        Raises:
            LimitUnavailable: the kernel refused, although `detect` thought it would not.
        """
        self.owner = _checked(owner)
        self.layout = layout
        self._trees: dict[str, Tree] = {}
        self._make_tree = tree
        self._budget = DescriptorBudget()
        try:
            self._prepare()
        except OSError as error:
            self.close()
            raise LimitUnavailable(
                f"cgroups for this owner cannot be made: {error}", hint=self.layout.fix
            ) from error

    @classmethod
    def detect(cls, owner: str, root: Path = Path("/")) -> Cgroups:
        """The cgroups of `owner` wherever this process may make some; `kind` says where."""
        return cls(owner, detect(root))

    @property
    def kind(self) -> str:
        """``v2``, ``v1`` or ``none``."""
        return f"v{self.layout.version}" if self.layout.version else "none"

    @property
    def clone_root(self) -> Path | None:
        """Version 2: the directory below which a process may be cloned into a cgroup; else None."""
        if self.layout.version != 2:
            return None
        return self.layout.bases["unified"] / TOP / self.owner

    @property
    def holds(self) -> frozenset[str]:
        """Those of memory, cpu and pids that a cgroup made here holds."""
        return self.layout.holds

    def create(self, name: str, limits: Limits) -> Cgroup:
        """A new cgroup with these limits; a `NoCgroup` where none can be made and none is needed.

        Raises:
            LimitUnavailable: memory, cpu or pids is set and cannot be held here.
            FileExistsError: the name is taken.
        """
        self._check_held(limits)
        cgroup = self.open(name)
        cgroup.make()
        try:
            cgroup.apply(limits)
        except BaseException:
            cgroup.remove()
            raise
        return cgroup

    def open(self, name: str) -> Cgroup:
        """The cgroup `name`, which exists or is about to be made."""
        _checked(name)
        if self.layout.version == 1:
            return CgroupV1(name, self._trees, self._budget)
        if self.layout.version == 2:
            controllers = self.layout.controllers
            return CgroupV2(name, self._trees["unified"], controllers, self._budget)
        return NoCgroup(name)

    def names(self) -> list[str]:
        """The cgroups of this owner, in any hierarchy."""
        return sorted({name for tree in self._unique() for name in tree.names()})

    def remove(self, patience: float = 5.0) -> bool:
        """Kill what is left, remove all of this owner's cgroups, and close.

        Returns False if something could not be removed in time.
        """
        deadline = time.monotonic() + patience
        gone = True
        for name in self.names():
            cgroup = self._open_partly(name)
            left = max(0.0, deadline - time.monotonic())
            cgroup.kill(left)
            gone = cgroup.remove(max(0.1, deadline - time.monotonic())) and gone
        for tree in self._unique():
            gone = tree.dissolve() and gone
        self.close()
        return gone

    def close(self) -> None:
        """Give back the descriptors; the cgroups stay."""
        for tree in self._unique():
            tree.close()
        self._trees.clear()

    def _unique(self) -> list[Tree]:
        return list({id(tree): tree for tree in self._trees.values()}.values())

    def _open_partly(self, name: str) -> Cgroup:
        """`open`, for one that a killed owner had made in some hierarchies only."""
        if self.layout.version == 1:
            there = {c: tree for c, tree in self._trees.items() if tree.has(name, ".")}
            return CgroupV1(name, there)
        return self.open(name)

    def _check_held(self, limits: Limits) -> None:
        for limit in LIMIT_OF:
            if getattr(limits, limit) is not None and limit not in self.holds:
                raise LimitUnavailable(
                    f"limit {limit} cannot be held here: {self.layout.reason[limit]}",
                    hint=f"{self.layout.fix}, or pass {limit}=None to go without.",
                )

    def _prepare(self) -> None:
        if self.layout.version == 2:
            base = self.layout.bases["unified"]
            if self.layout.evict:
                _evict(base)
            for directory in (base, base / TOP, base / TOP / self.owner):
                if directory != base:
                    make_directory(directory)
                _enable(directory, self.layout.controllers)
            _open_to_zygotes(base / TOP / self.owner)
        by_path: dict[Path, Tree] = {}
        for controller, base in self.layout.bases.items():
            directory = base / TOP / self.owner
            if directory not in by_path:
                make_directory(base / TOP)
                make_directory(directory)
                by_path[directory] = self._make_tree(directory)
            self._trees[controller] = by_path[directory]


def reap(owner: str, layout: Layout, *, tree: Callable[[Path], Tree] = Tree) -> bool:
    """Kill and remove whatever a dead owner left, wherever in the mounted hierarchies it ran.

    The caller knows, by the owner's lock, that it is dead. Returns False if something is left.
    """
    found: dict[str, list[Path]] = {}
    for controller, mount in layout.mounts.items():
        found[controller] = list(_find(mount, _checked(owner)))
    gone = True
    # One pass for each place the owner ran from; hierarchies may know different ones.
    for position in range(max((len(paths) for paths in found.values()), default=0)):
        bases = {
            controller: paths[position].parent.parent
            for controller, paths in found.items()
            if position < len(paths)
        }
        controllers = layout.controllers if layout.version == 2 else frozenset(bases)
        stale = Layout(layout.version, bases=bases, controllers=controllers)
        gone = Cgroups(owner, stale, tree=tree).remove() and gone
    return gone


def owners(layout: Layout) -> list[str]:
    """Every owner that has a directory in a mounted hierarchy, dead or alive."""
    tops = (top for mount in layout.mounts.values() for top in _tops(mount))
    return sorted({entry.name for top in tops for entry in top.iterdir() if entry.is_dir()})


def _find(mount: Path, owner: str) -> Iterator[Path]:
    for top in _tops(mount):
        if (top / owner).is_dir():
            yield top / owner


def _tops(mount: Path) -> Iterator[Path]:
    """Every directory of Atoll's below a mount point."""
    depth = len(mount.parts)
    for parent, directories, _ in os.walk(mount):
        if TOP in directories:
            yield Path(parent) / TOP
            directories.remove(TOP)
        if len(Path(parent).parts) - depth >= _SEARCH_DEPTH:
            directories.clear()


def _checked(name: str) -> str:
    """Names become directory names: one plain component, which no kernel file can be called."""
    if not name or "." in name or "/" in name or "\0" in name or len(name) > 200:
        raise InvalidArgument(f"{name!r} cannot be the name of a cgroup")
    return name


def _evict(base: Path) -> None:
    """Move every process of `base` into a leaf, until none is left (they may be forking)."""
    leaf = base / LEAF
    make_directory(leaf)
    for _ in range(20):
        processes = (base / "cgroup.procs").read_text().split()
        if not processes:
            return
        for pid in processes:
            # One that has just ended is ESRCH, and no longer in the way.
            with contextlib.suppress(ProcessLookupError):
                (leaf / "cgroup.procs").write_text(pid)
    raise OSError(f"processes in {base} cannot be moved into {LEAF}")


def _open_to_zygotes(directory: Path) -> None:
    """Let processes be cloned from one cgroup below `directory` into another (cgroups(7)).

    The kernel asks whether the caller may write to `cgroup.procs` of the new cgroup and of the
    lowest one above both. All ids may, as each template's zygote has another; and nobody else comes
    as far: the directory is closed, and a zygote is handed the one cgroup that it is to fill.
    """
    directory.chmod(0o700)
    (directory / "cgroup.procs").chmod(0o666)


def _enable(directory: Path, controllers: frozenset[str]) -> None:
    control = directory / "cgroup.subtree_control"
    enabled = set(control.read_text().split())
    for controller in sorted(controllers - enabled):
        control.write_text(f"+{controller}")
