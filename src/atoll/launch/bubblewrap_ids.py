"""Which ids the sandboxes of the launcher `bubblewrap` have, for root, sub-ids, and neither.

There are two user namespaces. The outer one owns the mount, pid, network, ipc, uts and cgroup
namespaces of the sandboxes and runs no client code; its id 0 is the account that builds. Each
sandbox runs in an inner one of its own, which owns nothing and has other ids:

    root      outer: a block of host ids that no account has; inner: a range of it each
    sub-ids   outer: the caller as 0, and the caller's sub-ids; inner: a slice of these each
    single    outer: the caller as 0; inner: the caller as 1000, and no other id at all
"""

from __future__ import annotations

import fcntl
import os
import pwd
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from atoll.launch.linux import idranges
from atoll.launch.linux.check import IdMap, parse_map
from atoll.model import WallUnavailable

SUBID_FILES = (Path("/etc/subuid"), Path("/etc/subgid"))
USER = 1000
_SLICE = 2048
_HIGH = 16
_FIRST_RANGE = 1


@dataclass(frozen=True)
class InnerIds:
    """The ids of one sandbox.

    Attributes:
        maps: its uid_map and gid_map as a process of the outer namespace writes them.
        expected: the same as the host reads them.
        owners: sandbox id to the id by which the builder of its mounts knows it.
        guest: the id inside that the guest runs as.
    """

    maps: tuple[str, str]
    expected: tuple[IdMap, IdMap]
    owners: dict[int, tuple[int, int]]
    guest: int

    @property
    def ping_groups(self) -> tuple[int, int]:
        """First and last group that may ping."""
        _, first, count = map(int, self.maps[1].split("\n", 1)[0].split())
        return first, first + count - 1

    def writer_map(self, owner: int) -> str:
        """An id map by which the sandbox's user writes as host account `owner`, and nobody else."""
        _, first, _ = map(int, self.maps[0].split("\n", 1)[0].split())
        return f"{owner} {first + USER} 1\n"


@dataclass
class Ids:
    """The id plan of one launcher, and which parts of it are taken.

    Attributes:
        kind: ``root``, ``sub-ids`` or ``single``.
        outer: how the builder makes the outer namespace (see bubblewrap_builder).
        inner: ids of the sandbox with that number.
    """

    kind: str
    outer: dict[str, Any]
    count: int
    inner: Callable[[int], InnerIds]
    lock: int
    shared: bool
    _free: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        first = _FIRST_RANGE if self.kind == "root" else 0
        self._free = list(range(self.count - 1, first - 1, -1))

    def take(self) -> int:
        """The number of a free part.

        Raises:
            WallUnavailable: all are taken.
        """
        busy: list[int] = []
        try:
            while self._free:
                number = self._free.pop()
                if not self.shared or _locked(self.lock, number):
                    return number
                busy.append(number)
        finally:
            self._free.extend(reversed(busy))
        raise WallUnavailable(
            f"no ids are left for another sandbox ({self.count} parts)",
            hint="end sandboxes, or add sub-ids: usermod --add-subuids and --add-subgids",
        )

    def give_back(self, number: int) -> None:
        """Free a part; no process with these ids is left."""
        if self.shared:
            fcntl.fcntl(self.lock, fcntl.F_OFD_SETLK, _lock_request(fcntl.F_UNLCK, number))
        self._free.append(number)

    def close(self) -> None:
        """Let all be free again."""
        if self.lock >= 0:
            os.close(self.lock)
            self.lock = -1


def plan(data_dir: Path, subids: tuple[Path, Path] = SUBID_FILES) -> Ids:
    """The best plan for this process's account.

    Raises:
        WallUnavailable: root, and no block of ids is free.
    """
    if os.geteuid() == 0:
        return _root()
    ranges = [sub_range(path, os.getuid(), _name()) for path in subids]
    if ranges[0] and ranges[1] and min(ranges[0][1], ranges[1][1]) >= _SLICE:
        return _sub_ids(data_dir, ranges[0], ranges[1])
    return _single()


def sub_range(path: Path, uid: int, name: str) -> tuple[int, int] | None:
    """First id and count of this account's largest range in a file like /etc/subuid (subuid(5))."""
    if not path.is_file():
        return None
    found = []
    for line in path.read_text().splitlines():
        fields = line.split(":")
        if len(fields) == 3 and fields[0] in (name, str(uid)) and fields[1].isdigit():
            found.append((int(fields[1]), int(fields[2]) if fields[2].isdigit() else 0))
    return max(found, key=lambda pair: pair[1], default=None)


def _name() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return ""


def _root() -> Ids:
    block = idranges.acquire()
    line = [[0, block.first, block.count]]

    def inner(number: int) -> InnerIds:
        low = number * idranges.STRIDE
        text = idranges.map_lines(low)
        seen = parse_map(idranges.map_lines(block.first + low))
        owners = {i: (block.first + low + i,) * 2 for i in (0, USER)}
        return InnerIds((text, text), (seen, seen), owners, 0)

    outer = {"become": block.first, "uid": line, "gid": line}
    return Ids("root", outer, block.count // idranges.STRIDE, inner, block.fd, False)


def _sub_ids(data_dir: Path, uids: tuple[int, int], gids: tuple[int, int]) -> Ids:
    count = min(uids[1], gids[1])

    def lines(first: int) -> str:
        low = _SLICE - _HIGH
        return f"0 {first} {low}\n{idranges.HIGH_FIRST} {first + low} {_HIGH}\n"

    def inner(number: int) -> InnerIds:
        start = number * _SLICE
        text = lines(1 + start)
        expected = (parse_map(lines(uids[0] + start)), parse_map(lines(gids[0] + start)))
        owners = {i: (1 + start + i,) * 2 for i in (0, USER)}
        return InnerIds((text, text), expected, owners, 0)

    outer = {
        "become": None,
        "uid": [[0, os.getuid(), 1], [1, uids[0], count]],
        "gid": [[0, os.getgid(), 1], [1, gids[0], count]],
        "tool": True,
    }
    # Sub-ids belong to the account, not to a data directory: engines share one lock file.
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    home = Path(runtime) if runtime and Path(runtime).is_dir() else data_dir
    home.mkdir(parents=True, exist_ok=True)
    lock = os.open(home / "atoll-sub-ids", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    return Ids("sub-ids", outer, count // _SLICE, inner, lock, True)


def _single() -> Ids:
    def inner(_number: int) -> InnerIds:
        text = f"{USER} 0 1\n"
        expected = (parse_map(f"{USER} {os.getuid()} 1"), parse_map(f"{USER} {os.getgid()} 1"))
        return InnerIds((text, text), expected, {0: (0, 0), USER: (0, 0)}, USER)

    outer = {"become": None, "uid": [[0, os.getuid(), 1]], "gid": [[0, os.getgid(), 1]]}
    return Ids("single", outer, 1 << 16, inner, -1, False)


def _locked(fd: int, number: int) -> bool:
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _lock_request(fcntl.F_WRLCK, number))
    except (BlockingIOError, PermissionError):
        return False
    return True


def _lock_request(kind: int, number: int) -> bytes:
    # One byte an id, so that launchers which cut the sub-ids differently keep off each other's.
    return struct.pack("hhqqi4x", kind, os.SEEK_SET, number * _SLICE, _SLICE, 0)
