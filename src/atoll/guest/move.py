"""Renames; copies where the kernel cannot: between mounts, and overlay's lower directories.

A copy is complete beside the target before it takes the target's name, and only then the source
is removed: whatever fails in between, one of the two is whole.
"""

from __future__ import annotations

import errno
import os
import stat

from atoll.guest import transfer
from atoll.guest.remove import remove

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def move(source: bytes, target: bytes) -> None:
    """Give `source` the name `target`, in place of a file or an empty directory of that name.

    Raises:
        OSError: as rename(2), or as the copying failed.
    """
    try:
        os.rename(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        _move_by_copy(source, target)


def _move_by_copy(source: bytes, target: bytes) -> None:
    target = target.rstrip(b"/")
    beside = b"%s/.move-%d-%s" % (
        os.path.dirname(target),
        os.getpid(),
        os.urandom(6).hex().encode(),
    )
    try:
        _copy_tree(source, beside)
        os.rename(beside, target)
    except BaseException:
        if os.path.lexists(beside):
            remove(beside)
        raise
    remove(source)


def _copy_tree(source: bytes, target: bytes) -> None:
    """Copy with modes, owners and times; directories get theirs last, as filling changes them."""
    directories: list[tuple[bytes, os.stat_result]] = []
    waiting = [(source, target)]
    while waiting:
        old, new = waiting.pop()
        info = os.lstat(old)
        if stat.S_ISDIR(info.st_mode):
            os.mkdir(new, 0o700)
            directories.append((new, info))
            waiting += [(old + b"/" + name, new + b"/" + name) for name in os.listdir(old)]
        elif stat.S_ISLNK(info.st_mode):
            os.symlink(os.readlink(old), new)
            _own(new, info)
        elif stat.S_ISREG(info.st_mode):
            _copy_file(old, new)
            _settle(new, info)
        elif stat.S_ISFIFO(info.st_mode):
            os.mkfifo(new)
            _settle(new, info)
        else:
            raise OSError(errno.EPERM, "a socket or device cannot move to another file system")
    for new, info in reversed(directories):
        _settle(new, info)


def _copy_file(old: bytes, new: bytes) -> None:
    source = os.open(old, _READ)
    try:
        target = os.open(new, _WRITE, 0o600)
        try:
            transfer.send(source, target, None)
        finally:
            os.close(target)
    finally:
        os.close(source)


def _settle(path: bytes, info: os.stat_result) -> None:
    _own(path, info)
    os.chmod(path, stat.S_IMODE(info.st_mode))
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))


def _own(path: bytes, info: os.stat_result) -> None:
    try:
        os.lchown(path, info.st_uid, info.st_gid)
    except PermissionError:
        return  # it belongs to whoever moves it, as with mv(1)
