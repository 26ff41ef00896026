"""Finds where this process may make cgroups, and which limits they can hold. Changes nothing.

Source: cgroups(7), Linux Documentation/admin-guide/cgroup-v2.rst ("No Internal Process Constraint",
"Delegation Containment"), proc_pid_mountinfo(5).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

LIMIT_OF = {"memory": "memory", "cpu": "cpu", "pids": "pids"}
"""Limit to the controller that holds it."""
V1_CONTROLLERS = ("memory", "pids", "cpu", "cpuacct", "freezer")
VERSION2_FIX = (
    "boot with cgroup v2 (systemd.unified_cgroup_hierarchy=1 on the kernel's command line), which "
    "can be delegated, or run Atoll as root"
)
DELEGATION_FIX = (
    "start Atoll where cgroups are delegated "
    "(`systemd-run --user --scope -p Delegate=yes atoll ...`), or as root"
)


@dataclass(frozen=True)
class Layout:
    """Where cgroups can be made.

    Attributes:
        version: the kind of hierarchy; 0 if this process may not make cgroups anywhere.
        bases: controller to the directory under which Atoll's own directory is made; on version 2
            they are all the same, under the key ``unified``.
        mounts: as `bases`, the mount points, where trees of dead owners are looked for.
        controllers: those that can be used, on version 2 as far as the kernel lists them here.
        evict: on version 2, processes of the base must first move into a leaf of their own.
        reason: why a limit cannot be held, for every limit that cannot.
        fix: what would let it be held.
    """

    version: Literal[0, 1, 2]
    bases: Mapping[str, Path] = field(default_factory=dict)
    mounts: Mapping[str, Path] = field(default_factory=dict)
    controllers: frozenset[str] = frozenset()
    evict: bool = False
    reason: Mapping[str, str] = field(default_factory=dict)
    fix: str = DELEGATION_FIX

    @property
    def holds(self) -> frozenset[str]:
        """The limits of `Limits` that a cgroup can hold here."""
        return frozenset(limit for limit, name in LIMIT_OF.items() if name in self.controllers)


@dataclass(frozen=True)
class _Mount:
    point: Path
    root: str
    options: frozenset[str]


def detect(root: Path = Path("/")) -> Layout:
    """What this process may do with cgroups.

    Args:
        root: where /proc and the mounts are looked up; another one only in tests.
    """
    own = _own_paths(root)
    version2, version1 = _mounts(root)
    if any(LIMIT_OF[limit] in version1 for limit in LIMIT_OF):
        return _version1(own, version1)
    if version2 is None:
        reason = "no cgroup hierarchy is mounted here"
        return Layout(0, reason=dict.fromkeys(LIMIT_OF, reason))
    return _version2(_inside(version2, own.get("", "/")), version2.point)


def _own_paths(root: Path) -> dict[str, str]:
    """Controller (or "" for version 2) to this process's own cgroup path."""
    paths: dict[str, str] = {}
    try:
        text = (root / "proc/self/cgroup").read_text()
    except OSError:
        return paths
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            paths[controller] = path
    return paths


def _mounts(root: Path) -> tuple[_Mount | None, dict[str, _Mount]]:
    """The version 2 mount, and the version 1 mount of each controller."""
    version2: _Mount | None = None
    version1: dict[str, _Mount] = {}
    try:
        text = (root / "proc/self/mountinfo").read_text()
    except OSError:
        return version2, version1
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        if kind not in ("cgroup", "cgroup2"):
            continue
        inner, point = before.split(" ")[3:5]
        mount = _Mount(root / point.lstrip("/"), inner, frozenset(options.split(",")))
        if kind == "cgroup2":
            version2 = version2 or mount
        for controller in V1_CONTROLLERS:
            if kind == "cgroup" and controller in mount.options:
                version1.setdefault(controller, mount)
    return version2, version1


def _inside(mount: _Mount, path: str) -> Path:
    """A cgroup path as a directory; of a path outside what is mounted only the mount's top is ours.

    In a container the mount shows a subtree, whose path in the hierarchy is the mount's root.
    """
    if mount.root != "/":
        if path != mount.root and not path.startswith(mount.root + "/"):
            return mount.point
        path = path[len(mount.root) :]
    found = mount.point / path.lstrip("/")
    return found if ".." not in found.parts and found.is_dir() else mount.point


def _version1(own: Mapping[str, str], mounts: Mapping[str, _Mount]) -> Layout:
    """Version 1: below our own cgroup in each hierarchy, so that limits set on us go on holding."""
    bases: dict[str, Path] = {}
    reason: dict[str, str] = {}
    for controller, mount in mounts.items():
        base = _inside(mount, own.get(controller, "/"))
        if os.access(base, os.W_OK):
            bases[controller] = base
    for limit, controller in LIMIT_OF.items():
        if controller in bases:
            continue
        reason[limit] = (
            f"this process may not write to the cgroup v1 hierarchy of {controller!r}; "
            "version 1 cannot be delegated safely, so it needs root"
            if controller in mounts
            else f"no cgroup hierarchy with the controller {controller!r} is mounted here"
        )
    if not any(LIMIT_OF[limit] in bases for limit in LIMIT_OF):
        return Layout(0, reason=reason, fix=VERSION2_FIX)
    return Layout(
        1,
        bases=bases,
        mounts={controller: mounts[controller].point for controller in bases},
        controllers=frozenset(bases),
        reason=reason,
        fix=VERSION2_FIX,
    )


def _version2(own: Path, mount: Path) -> Layout:
    """Version 2: where controllers can be turned on for children.

    A cgroup other than the hierarchy's root cannot have both processes and controllers for
    children. Ours has processes (us), so a sandbox goes beside it, unless it was delegated to us.
    """
    is_root = not (own / "cgroup.type").exists()
    if is_root and _writable(own):
        return _layout2(own, mount, evict=False)
    if _delegated(own) and _writable(own):
        return _layout2(own, mount, evict=True)
    if own != mount and _writable(own.parent):
        return _layout2(own.parent, mount, evict=False)
    if own == mount and _writable(own):
        # A container's own top: its processes move into a leaf, as nested engines do it.
        return _layout2(own, mount, evict=True)
    reason = f"the cgroup of this process ({own}) is not delegated to it"
    return Layout(0, reason=dict.fromkeys(LIMIT_OF, reason))


def _layout2(base: Path, mount: Path, *, evict: bool) -> Layout:
    offered = frozenset((base / "cgroup.controllers").read_text().split())
    reason = {
        limit: f"the cgroup {base} does not offer the controller {controller!r}"
        for limit, controller in LIMIT_OF.items()
        if controller not in offered
    }
    return Layout(
        2,
        bases={"unified": base},
        mounts={"unified": mount},
        controllers=offered & frozenset(LIMIT_OF.values()),
        evict=evict,
        reason=reason,
    )


def _writable(cgroup: Path) -> bool:
    """Whether children can be made here, given controllers, and filled by us."""
    files = ("", "cgroup.procs", "cgroup.subtree_control")
    return all(os.access(cgroup / file, os.W_OK) for file in files)


def _delegated(cgroup: Path) -> bool:
    """Whether systemd marked this cgroup as its owner's to arrange (Delegate=yes)."""
    for name in ("user.delegate", "trusted.delegate"):
        try:
            if os.getxattr(cgroup, name) == b"1":
                return True
        except OSError:
            continue
    return False
