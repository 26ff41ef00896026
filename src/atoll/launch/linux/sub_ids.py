"""The ids that an ordinary account may give to others (subuid(5)): finding, sharing, mapping them.

They belong to the account, not to a data directory. So all of its engines hold what they use of
them by locks on one file: one byte an id, that they may cut them differently.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import shutil
import struct
from pathlib import Path

import anyio

from atoll.model import WallUnavailable

FILES = (Path("/etc/subuid"), Path("/etc/subgid"))
_MAP_TOOLS = ("newuidmap", "newgidmap")
_LOCK_FILE = ".local/state/atoll/sub-ids"
_DOCTOR = "see `atoll doctor`"


def ranges(path: Path, uid: int | None = None) -> list[tuple[int, int]]:
    """First id and count of each range that a file like /etc/subuid gives to an account.

    Args:
        path: no ranges where it cannot be read.
        uid: the account; this process's own by default.
    """
    uid = os.getuid() if uid is None else uid
    try:
        names = {str(uid), pwd.getpwuid(uid).pw_name}
    except KeyError:
        names = {str(uid)}
    try:
        rows = [line.split(":") for line in path.read_text().splitlines()]
    except OSError:
        return []
    return [
        (int(row[1]), int(row[2]))
        for row in rows
        if len(row) == 3 and row[0] in names and row[1].isdigit() and row[2].isdigit()
    ]


def largest(path: Path, uid: int | None = None) -> tuple[int, int]:
    """The largest of an account's `ranges`; (0, 0) if it has none."""
    return max(ranges(path, uid), key=lambda pair: pair[1], default=(0, 0))


def map_tools() -> tuple[str, ...]:
    """The programs that map sub-ids, uids first; empty if this machine lacks one."""
    found = [path for name in _MAP_TOOLS if (path := shutil.which(name))]
    return tuple(found) if len(found) == len(_MAP_TOOLS) else ()


def lock_file() -> Path:
    """What all engines of this account lock, whatever their environment says."""
    uid = os.getuid()
    try:
        home = Path(pwd.getpwuid(uid).pw_dir)
    except KeyError:
        home = Path("/nonexistent")
    return home / _LOCK_FILE if os.access(home, os.W_OK) else Path(f"/run/user/{uid}/atoll-sub-ids")


def open_lock(path: Path) -> int:
    """The file of the locks, as a descriptor. Raises WallUnavailable."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise WallUnavailable(
            f"engines of this account cannot agree on who uses which sub-ids: {error}",
            hint="give the account a home directory that it may write to",
        ) from error


def hold(lock: int, first: int, count: int) -> bool:
    """Hold ids, numbered from 0 in the account's range; False if another engine does."""
    try:
        fcntl.fcntl(lock, fcntl.F_OFD_SETLK, _request(fcntl.F_WRLCK, first, count))
    except (BlockingIOError, PermissionError):
        return False
    return True


def let_go(lock: int, first: int, count: int) -> None:
    """Undo `hold`; no process with these ids is left."""
    fcntl.fcntl(lock, fcntl.F_OFD_SETLK, _request(fcntl.F_UNLCK, first, count))


def _request(kind: int, first: int, count: int) -> bytes:
    return struct.pack("hhqqi4x", kind, os.SEEK_SET, first, count, 0)


async def map_account(pid: int, host: tuple[int, int], count: int) -> None:
    """Give the user namespace of `pid` this account as id 0, and its sub-ids from 1 on.

    Args:
        host: the account's first sub-uid and first sub-gid.

    Raises:
        WallUnavailable: the programs that do it are missing, or refused.
    """
    tools = map_tools()
    if not tools:
        raise WallUnavailable(f"{' or '.join(_MAP_TOOLS)} is missing", hint=_DOCTOR)
    for tool, own, first in zip(tools, (os.getuid(), os.getgid()), host, strict=True):
        words = [tool, str(pid), "0", str(own), "1", "1", str(first), str(count)]
        result = await anyio.run_process(words, check=False)
        if result.returncode:
            raise WallUnavailable(
                f"{tool} refused this account's sub-ids: {result.stderr.decode().strip()}",
                hint=_DOCTOR,
            )
