"""Which ids sandboxes have: for root, and for an account with sub-ids.

A user namespace T (a shard's, or the one that owns what a launcher's bwraps make) holds every id
that its sandboxes use. Each sandbox's own user namespace, below T, is given a part of them:

    root      T is a block of host ids that no account has; a part is 16384 of them
    sub-ids   T is the account's sub-ids (subuid(5)); a part is 128 of them

An account without sub-ids is refused: its sandboxes would all have the account's own id.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from atoll.launch.linux import idranges, sub_ids
from atoll.launch.linux.check import IdMap, parse_map
from atoll.model import WallUnavailable

USER = 1000
ZYGOTE_PART = 1
_SUB_STRIDE = 128
_SUB_LOW = 100
FEWEST_SUB_IDS = 4 * _SUB_STRIDE
# id inside, first id of the part, how many: enough for a system without accounts of its own.
_SUB_ROWS = ((0, 0, _SUB_LOW), (USER, _SUB_LOW, 1), (65534, _SUB_LOW + 1, 1))
_ROOT_ROWS = (
    (0, 0, idranges.LOW_IDS),
    (idranges.HIGH_FIRST, idranges.LOW_IDS, idranges.STRIDE - idranges.LOW_IDS),
)

Rows = tuple[tuple[int, int, int], ...]


@dataclass
class Identities:
    """The ids of one T and which parts of them are free.

    Attributes:
        kind: ``root`` or ``sub-ids``.
        host: host uid and host gid of the first id that is given away.
        count: how many are.
        stride: ids from one part to the next.
        rows: the id map of a part: id inside, offset in the part, count.
        lock: keeps the block (root) or guards the parts that engines share (sub-ids).
        base: the first id that is given away, as T knows it.
    """

    kind: str
    host: tuple[int, int]
    count: int
    stride: int
    rows: Rows
    lock: int
    base: int = 0
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
        first = self.base + part * self.stride
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
        first = self.base + part * self.stride
        for inside, at, n in self.rows:
            if inside <= number < inside + n:
                return first + at + number - inside
        return first

    def ping_groups(self, part: int) -> tuple[int, int]:
        """First and last of T's groups for the groups of a part that may ping."""
        first = self.inside(part, 0)
        return first, first + self.rows[0][2] - 1

    def take(self) -> int:
        """A free part. Raises WallUnavailable: all are taken."""
        busy: list[int] = []
        try:
            while self._free:
                part = self._free.pop()
                if self.kind != "sub-ids" or sub_ids.hold(self.lock, *self._ids_of(part)):
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
            sub_ids.let_go(self.lock, *self._ids_of(part))
        self._free.append(part)

    def _ids_of(self, part: int) -> tuple[int, int]:
        return part * self.stride, self.stride

    def close(self) -> None:
        """Let all ids go."""
        if self.lock >= 0:
            os.close(self.lock)
            self.lock = -1


def plan(
    *,
    with_account: bool = False,
    subid_files: tuple[Path, Path] = sub_ids.FILES,
    lock_file: Path | None = None,
) -> Identities:
    """The identities for a new T of this account.

    Args:
        with_account: T is the account's own user namespace, in which its sub-ids begin at 1.
        subid_files: stand-ins for /etc/subuid and /etc/subgid.
        lock_file: a stand-in for the file by which the account's engines share its sub-ids.

    Raises:
        WallUnavailable: no block of ids is free (root), or the account has no sub-ids.
    """
    if os.geteuid() == 0:
        block = idranges.acquire()
        host = (block.first, block.first)
        return Identities("root", host, block.count, idranges.STRIDE, _ROOT_ROWS, block.fd)
    uids, gids = (sub_ids.largest(path) for path in subid_files)
    count = min(uids[1], gids[1])
    if count < FEWEST_SUB_IDS:
        raise WallUnavailable(
            "this account has no sub-ids, so every sandbox would have the account's own id",
            hint="see `atoll doctor` for the command that gives it some",
        )
    lock = sub_ids.open_lock(lock_file or sub_ids.lock_file())
    base = 1 if with_account else 0
    return Identities("sub-ids", (uids[0], gids[0]), count, _SUB_STRIDE, _SUB_ROWS, lock, base)
