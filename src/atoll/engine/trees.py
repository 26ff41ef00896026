"""Removes directory trees of any depth and size that somebody hostile may have made."""

from __future__ import annotations

import itertools
import os
import secrets
from pathlib import Path

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_tree(path: Path) -> None:
    """Remove `path` and all below it; follows no link. Missing is fine.

    Directories below are first moved to the top, so that neither the depth of the tree nor the
    length of its paths matters, and no more than two descriptors are open.

    Raises:
        OSError: something in it cannot be removed.
    """
    try:
        top = os.open(path, _DIRECTORY)
    except FileNotFoundError:
        return
    try:
        _empty(top)
    finally:
        os.close(top)
    path.rmdir()


def _empty(top: int) -> None:
    # Not the names of an earlier attempt that could not remove all.
    names = (f".atoll-removed-{secrets.token_hex(4)}-{number}" for number in itertools.count())
    pending = [_moved(name, top, top, next(names)) for name in _unlink_files(top)]
    while pending:
        name = pending.pop()
        _open_up(name, top)
        directory = os.open(name, _DIRECTORY, dir_fd=top)
        try:
            for inner in _unlink_files(directory):
                pending.append(_moved(inner, directory, top, next(names)))
        finally:
            os.close(directory)
        os.rmdir(name, dir_fd=top)


def _moved(name: str, parent: int, top: int, to: str) -> str:
    """Move a directory to the top before anything in it is touched.

    A mount point cannot be moved (rename(2), EBUSY): what is mounted below is never entered.
    """
    try:
        os.rename(name, to, src_dir_fd=parent, dst_dir_fd=top)
    except PermissionError:
        _open_up(name, parent)
        os.rename(name, to, src_dir_fd=parent, dst_dir_fd=top)
    return to


def _open_up(name: str, parent: int) -> None:
    """Let this account into a directory, which it must be also to move it (rename(2), EACCES).

    By a descriptor that follows no link and needs no permission: chmod on Linux has no such flag.
    """
    if not hasattr(os, "O_PATH"):
        os.chmod(name, 0o700, dir_fd=parent, follow_symlinks=False)  # noqa: PTH101
        return
    path = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        Path(f"/proc/self/fd/{path}").chmod(0o700)
    finally:
        os.close(path)


def _unlink_files(directory: int) -> list[str]:
    """Unlink what is no directory; the names of those that are."""
    directories = []
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                directories.append(entry.name)
            else:
                os.unlink(entry.name, dir_fd=directory)
    return directories
