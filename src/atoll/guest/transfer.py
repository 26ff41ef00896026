"""Bytes between a file and a pipe, moved by the kernel where it can."""

from __future__ import annotations

import errno
import os

_BLOCK = 1 << 20
# What the kernel answers where it cannot move the bytes itself: /proc, O_APPEND, another system.
_CANNOT = (errno.EINVAL, errno.ENOSYS, errno.ENOTSOCK, errno.EOPNOTSUPP)


def send(source: int, out: int, count: int | None) -> None:
    """Copy from a file's position to a pipe or file: `count` bytes, or all there are."""
    by_kernel = True
    while count is None or count > 0:
        block = _BLOCK if count is None else min(_BLOCK, count)
        if by_kernel:
            try:
                moved = _sendfile(source, out, block)
            except OSError as error:
                if error.errno not in _CANNOT:
                    raise
                by_kernel = False
                continue
        else:
            moved = _copy(source, out, block)
        if moved == 0:
            return
        if count is not None:
            count -= moved


def receive(source: int, target: int) -> None:
    """Copy a pipe into a file until the pipe's other end is closed."""
    splice = getattr(os, "splice", None)
    while splice is not None:
        try:
            if splice(source, target, _BLOCK) == 0:
                return
        except OSError as error:
            if error.errno not in _CANNOT:
                raise
            splice = None
    while _copy(source, target, _BLOCK):
        pass


def write_all(fd: int, data: bytes) -> None:
    """write(2) until all of it is written."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _sendfile(source: int, out: int, block: int) -> int:
    if not hasattr(os, "splice"):
        raise OSError(errno.ENOSYS, "sendfile(2) takes sockets only here")
    return os.sendfile(out, source, None, block)  # None: from its position


def _copy(source: int, target: int, block: int) -> int:
    data = os.read(source, block)
    write_all(target, data)
    return len(data)
