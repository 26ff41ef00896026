"""Which ids a shard and its sandboxes have: for root, and for an account with sub-ids.

The shard's user namespace T holds every id that its sandboxes use; each sandbox's own user
namespace, below T, is given a part of them:

    root      T is a block of host ids that no account has; a part is 16384 of them
    sub-ids   T is the account's sub-ids (subuid(5)); a part is 128 of them

An account without sub-ids is refused: its sandboxes would all have the account's own id.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import struct
from dataclasses import dataclass, field
from pathlib import Path

from atoll.launch.linux import idranges
from atoll.launch.linux.check import IdMap, parse_map
from atoll.model import WallUnavailable

USER = 1000
ZYGOTE_PART = 1
_SUB_STRIDE = 128
_SUB_LOW = 100
# id inside, first id of the part, how many: enough for a system without accounts of its own.
_SUB_ROWS = ((0, 0, _SUB_LOW), (USER, _SUB_LOW, 1), (65534, _SUB_LOW + 1, 1))
_ROOT_ROWS = (
    (0, 0, idranges.LOW_IDS),
    (idranges.HIGH_FIRST, idranges.LOW_IDS, idranges.STRIDE - idranges.LOW_IDS),
)

Rows = tuple[tuple[int, int, int], ...]


@dataclass
class Identities:
    """The ids of one shard and which parts of them are free.

    Attributes:
        kind: ``root`` or ``sub-ids``.
        host: host uid and host gid of T's id 0.
        count: how many ids T has.
        stride: ids from one part to the next.
        rows: the id map of a part: id inside, offset in the part, count.
        lock: keeps the block (root) or guards the parts that engines share (sub-ids).
    """

    kind: str
    host: tuple[int, int]
    count: int
    stride: int
    rows: Rows
    lock: int
    _free: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._free = list(range(self.count // self.stride - 1, ZYGOTE_PART, -1))

    @property
    def idmapped(self) -> bool:
        """True if lowers can be mapped to a part (only the initial namespace's root can)."""
        return self.kind == "root"

    @property
    def exhausted(self) -> bool:
        """True if no part is left."""
        return not self._free

    def lines(self, part: int) -> str:
        """The id map of a part as a process in T writes it (user_namespaces(7))."""
        first = part * self.stride
        return "".join(f"{inside} {first + at} {n}\n" for inside, at, n in self.rows)

    def expected(self, part: int) -> tuple[IdMap, IdMap]:
        """uid_map and gid_map of a part as the host reads them."""
        first = part * self.stride
        uids, gids = (
            parse_map("".join(f"{i} {host + first + at} {n}\n" for i, at, n in self.rows))
            for host in self.host
        )
        return uids, gids

    def inside(self, part: int, number: int) -> int:
        """T's id for id `number` inside a sandbox of this part; the part's first if it has none."""
        for inside, at, n in self.rows:
            if inside <= number < inside + n:
                return part * self.stride + at + number - inside
        return part * self.stride

    def take(self) -> int:
        """A free part. Raises WallUnavailable: all are taken."""
        busy: list[int] = []
        try:
            while self._free:
                part = self._free.pop()
                if self.kind != "sub-ids" or _lock(self.lock, part, fcntl.F_WRLCK):
                    return part
                busy.append(part)
        finally:
            self._free.extend(reversed(busy))
        raise WallUnavailable(
            "no ids are left for another sandbox",
            hint="end sandboxes, or give this account more sub-ids (usermod --add-subuids)",
        )

    def give_back(self, part: int) -> None:
        """Free a part; no process with its ids is left."""
        if self.kind == "sub-ids":
            _lock(self.lock, part, fcntl.F_UNLCK)
        self._free.append(part)

    def close(self) -> None:
        """Let all ids go."""
        if self.lock >= 0:
            os.close(self.lock)
            self.lock = -1


def plan(data_dir: Path, subid_files: tuple[Path, Path] | None = None) -> Identities:
    """The identities for a new shard of this account.

    Args:
        data_dir: where the account's lock file is kept if it has no runtime directory.
        subid_files: stand-ins for /etc/subuid and /etc/subgid.

    Raises:
        WallUnavailable: no block of ids is free (root), or the account has no sub-ids.
    """
    if os.geteuid() == 0:
        block = idranges.acquire()
        host = (block.first, block.first)
        return Identities("root", host, block.count, idranges.STRIDE, _ROOT_ROWS, block.fd)
    files = subid_files or (Path("/etc/subuid"), Path("/etc/subgid"))
    uids, gids = (sub_range(path) for path in files)
    if not uids or not gids or min(uids[1], gids[1]) < 4 * _SUB_STRIDE:
        raise WallUnavailable(
            "this account has no sub-ids, so every sandbox would have the account's own id",
            hint="see `atoll doctor` for the command that gives it some",
        )
    count = min(uids[1], gids[1])
    lock = _shared_lock(data_dir)
    return Identities("sub-ids", (uids[0], gids[0]), count, _SUB_STRIDE, _SUB_ROWS, lock)


def sub_range(path: Path) -> tuple[int, int] | None:
    """First id and count of this account's largest range in a file like /etc/subuid."""
    if not path.is_file():
        return None
    uid = os.getuid()
    try:
        names = {str(uid), pwd.getpwuid(uid).pw_name}
    except KeyError:
        names = {str(uid)}
    rows = [line.split(":") for line in path.read_text().splitlines()]
    found = [
        (int(row[1]), int(row[2]))
        for row in rows
        if len(row) == 3 and row[0] in names and row[1].isdigit() and row[2].isdigit()
    ]
    return max(found, key=lambda pair: pair[1], default=None)


def _shared_lock(data_dir: Path) -> int:
    # Sub-ids belong to the account, not to a data directory: its engines share one lock file.
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    home = Path(runtime) if runtime and Path(runtime).is_dir() else data_dir
    return os.open(home / "atoll-sub-ids", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _lock(fd: int, part: int, kind: int) -> bool:
    # One byte an id, so that launchers which cut the sub-ids differently keep off each other's.
    start = part * _SUB_STRIDE
    request = struct.pack("hhqqi4x", kind, os.SEEK_SET, start, _SUB_STRIDE, 0)
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, request)
    except (BlockingIOError, PermissionError):
        return False
    return True
