"""Removes a tree without recursion and without long paths.

One directory is open at a time, whatever the depth: the way down is by name without following
symlinks, the way up is `..`, checked to be the directory that it was left from.
"""

from __future__ import annotations

import errno
import os
import stat

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
# Subdirectories remembered in one pass over a directory; the rest waits for the next pass.
_BATCH = 4096


class _Level:
    """A directory on the way down from the top of the tree."""

    __slots__ = ("identity", "left", "name")

    def __init__(self, name: bytes, fd: int) -> None:
        self.name = name
        self.identity = _identity(fd)
        self.left: list[bytes] = []


def remove(path: bytes) -> None:
    """Remove a file, a symlink, or a directory with all that is in it.

    Raises:
        OSError: it is not there, something may not be removed, or another process moves it about.
    """
    if not stat.S_ISDIR(os.lstat(path).st_mode):
        os.unlink(path)
        return
    if not _removed_empty(path):
        _empty(path)
        os.rmdir(path)


def _empty(path: bytes) -> None:
    fd = os.open(path, _OPEN)
    try:
        levels = [_Level(b"", fd)]
        while True:
            level = levels[-1]
            if not level.left:
                level.left = _clear(fd)
            if level.left:
                name = level.left.pop()
                fd = _step(fd, name)
                levels.append(_Level(name, fd))
                continue
            levels.pop()
            if not levels:
                return
            fd = _step(fd, b"..")
            if _identity(fd) != levels[-1].identity:
                raise OSError(errno.EBUSY, "it is being moved while it is removed")
            # If something was added meanwhile, the next pass over this directory finds it.
            _removed_empty(level.name, fd)
    finally:
        os.close(fd)


def _clear(fd: int) -> list[bytes]:
    """Remove all but directories that hold something; returns some of those."""
    left: list[bytes] = []
    with os.scandir(fd) as entries:
        for entry in entries:
            name = os.fsencode(entry.name)
            if not entry.is_dir(follow_symlinks=False):
                _unlink(name, fd)
            elif not _removed_empty(name, fd):
                left.append(name)
                if len(left) == _BATCH:
                    break
    return left


def _unlink(name: bytes, fd: int) -> None:
    try:
        os.unlink(name, dir_fd=fd)
    except FileNotFoundError:
        return  # somebody else was faster


def _removed_empty(name: bytes, fd: int | None = None) -> bool:
    try:
        os.rmdir(name, dir_fd=fd)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return False
        if error.errno != errno.ENOENT or fd is None:
            raise
    return True


def _step(fd: int, name: bytes) -> int:
    """Open `name` in the directory `fd`, and close that."""
    inner = os.open(name, _OPEN, dir_fd=fd)
    os.close(fd)
    return inner


def _identity(fd: int) -> tuple[int, int]:
    info = os.fstat(fd)
    return info.st_dev, info.st_ino
