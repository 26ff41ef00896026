"""Host uid ranges for sandboxes: which are free, and holding one for as long as a process lives.

A block is a run of ranges, one range a sandbox. Blocks lie where no distribution gives ids
(systemd's UIDS-GIDS document: 1879048192 to 2147352575 is unused) and are held by an open file
description lock on one byte a range (fcntl(2), F_OFD_SETLK): the kernel frees it with its last
holder.
"""

from __future__ import annotations

import fcntl
import grp
import os
import pwd
import struct
from dataclasses import dataclass
from pathlib import Path

from atoll.model import WallUnavailable

FIRST_ID = 1879048192
LAST_ID = 2147352575
STRIDE = 16384
"""Ids of one range: 0-16367 as they are, and the last 16 for 65520-65535 (nobody, nogroup)."""
LOW_IDS = STRIDE - 16
HIGH_FIRST = 65520
BLOCK_RANGES = 512

LOCK_FILE = Path("/run/atoll/ids")


@dataclass(frozen=True)
class IdBlock:
    """A held run of host ids. `fd` holds the lock; pass it on to what must keep the block."""

    first: int
    count: int
    fd: int

    def close(self) -> None:
        """Let this process's hold go."""
        os.close(self.fd)


def map_lines(first: int) -> str:
    """uid_map lines of one sandbox whose ids start at `first` (user_namespaces(7))."""
    return f"0 {first} {LOW_IDS}\n{HIGH_FIRST} {first + LOW_IDS} 16\n"


def _taken(first: int, last: int) -> bool:
    for entry in pwd.getpwall():
        if first <= entry.pw_uid <= last:
            return True
    for group in grp.getgrall():
        if first <= group.gr_gid <= last:
            return True
    for name in ("/etc/subuid", "/etc/subgid"):
        path = Path(name)
        for line in path.read_text().splitlines() if path.exists() else ():
            fields = line.split(":")
            if len(fields) == 3 and fields[1].isdigit() and fields[2].isdigit():
                start, count = int(fields[1]), int(fields[2])
                if start <= last and start + count > first:
                    return True
    return False


def acquire(lock_file: Path = LOCK_FILE, ranges: int = BLOCK_RANGES) -> IdBlock:
    """Hold a free block of `ranges` ranges.

    Raises:
        WallUnavailable: every block is held or taken by accounts of this machine.
    """
    lock_file.parent.mkdir(parents=True, exist_ok=True)
    size = ranges * STRIDE
    for index in range((LAST_ID - FIRST_ID + 1) // size):
        first = FIRST_ID + index * size
        fd = os.open(lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        lock = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, index * ranges, ranges, 0)
        try:
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, lock)
        except (BlockingIOError, PermissionError):
            os.close(fd)
            continue
        if _taken(first, first + size - 1):
            os.close(fd)
            continue
        return IdBlock(first, size, fd)
    raise WallUnavailable(
        "no block of host user ids is free for another template",
        hint="close other engines on this machine, or reserve fewer ids for accounts "
        f"between {FIRST_ID} and {LAST_ID}",
    )
