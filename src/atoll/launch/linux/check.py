"""The host's own look at a built sandbox, from outside, before it sends the guest one byte.

Everything is read through one descriptor of /proc/PID (proc(5)): four reads and one readlink a
namespace, so that a pid that is used again in between cannot be looked at by mistake. What the
process says of itself is never asked.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from atoll.model.errors import WallCheckFailed

NAMESPACES = ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup")
"""Every kind that a sandbox must have for itself (namespaces(7))."""

CAPABILITY_SETS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")

PSEUDO_FILESYSTEMS = frozenset({"overlay", "tmpfs", "proc", "devpts", "mqueue"})
_READ_AT_ONCE = 1 << 16
_STATUS = re.compile(
    rb"^(Uid|Gid|TracerPid|Threads|NoNewPrivs|Seccomp|Seccomp_filters"
    rb"|CapInh|CapPrm|CapEff|CapBnd|CapAmb):\t(.*)$",
    re.MULTILINE,
)
_OCTAL = re.compile(r"\\([0-7]{3})")

IdMap = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class ExpectedWalls:
    """What the host built, and therefore what it must find.

    Attributes:
        uid_map: lines of /proc/PID/uid_map as this process reads them (first inside, first outside,
            count), in ascending order of the first.
        gid_map: the same of /proc/PID/gid_map.
        filters: least number of seccomp filters (`Seccomp_filters`, Linux 5.9).
        capabilities: the widest mask that any of the five capability sets may hold.
        not_in: kind to link text ("net:[4026531840]") of namespaces it must not be in:
            `host_namespaces`.
        in_namespaces: kind to link text of namespaces that it must be in.
        root: filesystem types that the mount at / may have.
        filesystems: types that any mount may have.
        bound: mounts of other types that were made on purpose: mount point to "must be read-only".
        cgroups: controller to the end of the cgroup's path; "" is the unified hierarchy.
        threads: how many threads the process may have.
    """

    uid_map: IdMap
    gid_map: IdMap
    filters: int
    capabilities: int
    not_in: Mapping[str, str]
    in_namespaces: Mapping[str, str] = field(default_factory=dict)
    root: frozenset[str] = frozenset({"overlay"})
    filesystems: frozenset[str] = PSEUDO_FILESYSTEMS
    bound: Mapping[str, bool] = field(default_factory=dict)
    cgroups: Mapping[str, str] = field(default_factory=dict)
    threads: int = 1


def namespaces_of(pid: int | str = "self") -> dict[str, str]:
    """Link texts of a process's namespaces.

    Raises:
        OSError: no such process, or this one may not look at it.
    """
    directory = os.open(f"/proc/{pid}/ns", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return {kind: os.readlink(kind, dir_fd=directory) for kind in NAMESPACES}
    finally:
        os.close(directory)


@functools.cache
def host_namespaces() -> Mapping[str, str]:
    """This process's own, which no sandbox may be in."""
    return namespaces_of("self")


def parse_map(text: str) -> IdMap:
    """Lines of an id map, ascending (user_namespaces(7))."""
    rows = (line.split() for line in text.splitlines() if line.strip())
    return tuple(sorted((int(a), int(b), int(c)) for a, b, c in rows))


def require(pid: int, expected: ExpectedWalls, sandbox_id: str | None = None) -> None:
    """Raise unless the process stands behind every expected wall.

    Raises:
        WallCheckFailed: names each difference, or says that the process could not be looked at.
    """
    try:
        holes = check(pid, expected)
    except (OSError, ValueError) as error:
        raise WallCheckFailed(
            f"process {pid} could not be checked from outside: {error}", sandbox_id=sandbox_id
        ) from error
    if holes:
        raise WallCheckFailed("; ".join(holes), sandbox_id=sandbox_id)


def check(pid: int, expected: ExpectedWalls) -> list[str]:
    """Every difference between what was built and what is there, in words; empty if there is none.

    Raises:
        OSError: the process is gone, or this one may not look at it.
        ValueError: the kernel printed something that this code does not know.
    """
    directory = os.open(f"/proc/{pid}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        holes = _status_holes(_read(directory, "status"), expected)
        for name, lines in (("uid_map", expected.uid_map), ("gid_map", expected.gid_map)):
            found = parse_map(_read(directory, name).decode())
            if found != lines:
                holes.append(f"{name} is {found}, not {lines}")
        holes += _namespace_holes(directory, expected)
        holes += _mount_holes(_read(directory, "mountinfo").decode(errors="replace"), expected)
        if expected.cgroups:
            holes += _cgroup_holes(_read(directory, "cgroup").decode(errors="replace"), expected)
        return holes
    finally:
        os.close(directory)


def _read(directory: int, name: str) -> bytes:
    fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
    try:
        data = os.read(fd, _READ_AT_ONCE)
        # /proc hands out at most a page a read for seq files longer than that: go on to the end.
        while more := os.read(fd, _READ_AT_ONCE):
            data += more
        return data
    finally:
        os.close(fd)


def _status_holes(status: bytes, expected: ExpectedWalls) -> list[str]:
    found = {key.decode(): value.decode() for key, value in _STATUS.findall(status)}
    holes = []
    for name, wanted in (("NoNewPrivs", "1"), ("Seccomp", "2"), ("TracerPid", "0")):
        if found.get(name) != wanted:
            holes.append(f"{name} is {found.get(name)}, not {wanted}")
    filters = int(found.get("Seccomp_filters", "-1"))
    if filters < expected.filters:
        holes.append(f"{filters} seccomp filters, not {expected.filters}")
    if int(found["Threads"]) > expected.threads:
        holes.append(f"{found['Threads']} threads, not {expected.threads}")
    for name in CAPABILITY_SETS:
        extra = int(found[name], 16) & ~expected.capabilities
        if extra:
            holes.append(f"{name} holds {extra:#x} beyond {expected.capabilities:#x}")
    for name, id_map in (("Uid", expected.uid_map), ("Gid", expected.gid_map)):
        for number in map(int, found[name].split()):
            if not any(first <= number < first + count for _, first, count in id_map):
                holes.append(f"{name} {number} is outside the sandbox's own range")
                break
    return holes


def _namespace_holes(directory: int, expected: ExpectedWalls) -> list[str]:
    holes = []
    for kind in NAMESPACES:
        link = os.readlink(f"ns/{kind}", dir_fd=directory)
        if kind not in expected.not_in:
            holes.append(f"no {kind} namespace to compare with was given")
        elif link == expected.not_in[kind]:
            holes.append(f"the {kind} namespace is the host's")
        if link != expected.in_namespaces.get(kind, link):
            holes.append(f"the {kind} namespace is {link}, not {expected.in_namespaces[kind]}")
    return holes


def _mount_holes(mountinfo: str, expected: ExpectedWalls) -> list[str]:
    holes = []
    roots = 0
    for line in mountinfo.splitlines():
        mount, _, source = line.partition(" - ")
        fields = mount.split(" ")
        kind = source.split(" ", 1)[0]
        place = fields[4]
        if "\\" in place:
            place = _OCTAL.sub(lambda match: chr(int(match[1], 8)), place)
        if place == "/":
            roots += 1
            if kind not in expected.root:
                holes.append(f"the root is {kind}, not {' or '.join(sorted(expected.root))}")
        elif place in expected.bound:
            if expected.bound[place] and "ro" not in fields[5].split(","):
                holes.append(f"{place} is writable")
        elif kind not in expected.filesystems:
            holes.append(f"a mount of type {kind} at {place}")
    if roots != 1:
        holes.append(f"{roots} mounts at the root")
    return holes


def _cgroup_holes(text: str, expected: ExpectedWalls) -> list[str]:
    paths: dict[str, str] = {}
    for line in text.splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        for controller in controllers.split(","):
            paths[controller.removeprefix("name=")] = path
    return [
        f"its {controller or 'unified'} cgroup is {paths.get(controller)}, not …{suffix}"
        for controller, suffix in expected.cgroups.items()
        if not paths.get(controller, "").endswith(suffix)
    ]
