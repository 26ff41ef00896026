"""Which column of the table of walls applies to this process, and what this kernel offers it."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import pwd
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from atoll.launch.linux import sub_ids
from atoll.launch.linux.cgroups_detect import DELEGATION_FIX, Layout, detect
from atoll.launch.linux.identities import FEWEST_SUB_IDS

CAP_SYS_ADMIN = 21
_CLONE3, _MOUNT_SETATTR = 435, 442
_CLONE_INTO_CGROUP = 0x200000000


class Column(Enum):
    """The account that Atoll runs as."""

    ROOT = "root"
    ROOTLESS_DELEGATED = "rootless-delegated"
    ROOTLESS = "rootless"


@dataclass(frozen=True)
class Situation:
    """What this process may do here.

    Attributes:
        holds: limits that a cgroup of ours can hold.
        reason: why not, for each of memory, cpu and pids that none can.
        fix: what would let a cgroup hold them.
        counts_cpu_time: whether a cgroup counts the CPU time of a whole sandbox.
        sub_ids: whether the account has sub-ids and the tools to use them.
        account: the account's name.
        features: what the kernel offers, by name; see walls_table.FEATURES.
    """

    column: Column
    holds: frozenset[str]
    reason: Mapping[str, str] = field(default_factory=dict)
    fix: str = DELEGATION_FIX
    counts_cpu_time: bool = False
    sub_ids: bool = False
    account: str = ""
    features: Mapping[str, bool] = field(default_factory=dict)

    @property
    def own_ids(self) -> bool:
        """Whether each sandbox has host ids of its own."""
        return self.column is Column.ROOT or self.sub_ids


def situation(root: Path = Path("/"), layout: Layout | None = None) -> Situation:
    """Look. Changes nothing, starts nothing.

    Args:
        root: where /proc and /etc are looked up; another one only in tests.
        layout: the cgroups that were found, if the caller has looked already.
    """
    layout = layout or detect(root)
    column = Column.ROOT
    if not has_root(root):
        column = Column.ROOTLESS_DELEGATED if layout.holds else Column.ROOTLESS
    return Situation(
        column=column,
        holds=layout.holds,
        reason=layout.reason,
        fix=layout.fix,
        counts_cpu_time=layout.version == 2 or "cpuacct" in layout.controllers,
        sub_ids=has_sub_ids(root),
        account=account_name(),
        features={
            "mount_setattr": has_mount_setattr(),
            "clone3 into a cgroup": has_clone_into_cgroup(),
        },
    )


def has_root(root: Path = Path("/")) -> bool:
    """Root of the first user namespace with the right to mount: what the root column needs.

    Root of a container is often neither.
    """
    try:
        status = (root / "proc/self/status").read_text()
        id_map = (root / "proc/self/uid_map").read_text().split()
    except OSError:
        return False
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    uids = fields.get("Uid", "1 1").split()
    capabilities = int(fields.get("CapEff", "0").strip(), 16)
    first_namespace = id_map == ["0", "0", "4294967295"]
    return uids[1] == "0" and bool(capabilities >> CAP_SYS_ADMIN & 1) and first_namespace


def account_name() -> str:
    """This account's name, or its number."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def has_sub_ids(root: Path = Path("/")) -> bool:
    """Whether this account has enough sub-uids and sub-gids, and the programs that map them."""
    counts = [sub_ids.largest(root / file.relative_to("/"))[1] for file in sub_ids.FILES]
    return min(counts) >= FEWEST_SUB_IDS and bool(sub_ids.map_tools())


def has_mount_setattr() -> bool:
    """Whether the kernel has mount_setattr(2), asked with a size that it refuses."""
    return _answer(_MOUNT_SETATTR, -1, b"", 0, None, 0) != errno.ENOSYS


def has_clone_into_cgroup() -> bool:
    """Whether clone3(2) takes CLONE_INTO_CGROUP, asked with a descriptor that is not open."""
    # struct clone_args: flags, 7 more words of which exit_signal is the fifth, tid set, cgroup.
    request = struct.pack("11Q", _CLONE_INTO_CGROUP, 0, 0, 0, 17, 0, 0, 0, 0, 0, 0x7FFFFFFF)
    return _answer(_CLONE3, request, len(request)) == errno.EBADF


def _answer(number: int, *arguments: object) -> int:
    """The errno of a system call that cannot succeed; these numbers are the same everywhere."""
    if platform.system() != "Linux":
        return errno.ENOSYS
    libc = ctypes.CDLL(None, use_errno=True)
    ctypes.set_errno(0)
    libc.syscall(ctypes.c_long(number), *arguments)
    return ctypes.get_errno()
