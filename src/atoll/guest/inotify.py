"""inotify(7) by ctypes: one instance, its watches, and its events as tuples."""

from __future__ import annotations

import ctypes
import os
import struct

CREATE = 0x100
MODIFY = 0x2
ATTRIB = 0x4
MOVED_FROM = 0x40
MOVED_TO = 0x80
DELETE = 0x200
DELETE_SELF = 0x400
MOVE_SELF = 0x800
OVERFLOW = 0x4000
IGNORED = 0x8000
ISDIR = 0x40000000
_ONLYDIR = 0x01000000
_DONT_FOLLOW = 0x02000000
_EXCL_UNLINK = 0x04000000

_MASK = CREATE | MODIFY | ATTRIB | MOVED_FROM | MOVED_TO | DELETE | DELETE_SELF
_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC
_HEAD = struct.Struct("iIII")
_READ = 1 << 16

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


class Inotify:
    """One inotify instance, non-blocking."""

    def __init__(self) -> None:
        self.fd = _checked(_libc.inotify_init1(_FLAGS))

    def add(self, path: bytes, top: bool = False) -> int:
        """Watch a directory; the same directory has the same number.

        The top one may be named by a symlink, and tells when it is itself moved.

        Raises:
            OSError: not there, no directory, or no watch is left (ENOSPC).
        """
        mask = _MASK | _ONLYDIR | _EXCL_UNLINK | (MOVE_SELF if top else _DONT_FOLLOW)
        return _checked(_libc.inotify_add_watch(self.fd, path, ctypes.c_uint32(mask)))

    def forget(self, number: int) -> None:
        """End a watch; one that has ended by itself is no error."""
        _libc.inotify_rm_watch(self.fd, number)

    def read(self) -> list[tuple[int, int, int, bytes]]:
        """What has happened, in order: watch, mask, cookie, name; empty if nothing has."""
        try:
            data = os.read(self.fd, _READ)
        except BlockingIOError:
            return []
        events = []
        position = 0
        while position < len(data):
            number, mask, cookie, size = _HEAD.unpack_from(data, position)
            position += _HEAD.size
            events.append((number, mask, cookie, data[position : position + size].rstrip(b"\0")))
            position += size
        return events
