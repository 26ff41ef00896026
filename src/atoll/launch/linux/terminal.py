"""Terminals of a sandbox, made by the host on the sandbox's own devpts."""

from __future__ import annotations

import ctypes
import fcntl
import os
import stat
import struct
import termios

from atoll.launch.linux import guest_root
from atoll.model import WallCheckFailed

_OPENAT2 = 437
_RESOLVE_NO_MAGICLINKS, _RESOLVE_NO_SYMLINKS, _RESOLVE_IN_ROOT = 0x02, 0x04, 0x10
_TIOCGPTPEER = 0x5441
_TIOCSPTLCK = 0x40045431
_PTMX = os.makedev(5, 2)


def open_pty(pid: int, rows: int, cols: int) -> tuple[int, int]:
    """A new terminal in the sandbox whose guest is `pid`: master (non-blocking) and slave.

    No path that the sandbox could bend is followed: openat2(2) inside the sandbox's root without
    symlinks, then the device number is checked; the slave comes from the master (TIOCGPTPEER).

    Raises:
        SandboxDied: the guest is gone.
        WallCheckFailed: what is at /dev/pts/ptmx is not a terminal multiplexer.
    """
    root = guest_root.open_root(pid)
    try:
        flags = os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC | os.O_NONBLOCK
        master = _open_beneath(root, "dev/pts/ptmx", flags)
    finally:
        os.close(root)
    try:
        found = os.fstat(master)
        if not stat.S_ISCHR(found.st_mode) or found.st_rdev != _PTMX:
            raise WallCheckFailed("/dev/pts/ptmx of the sandbox is not a terminal multiplexer")
        fcntl.ioctl(master, _TIOCSPTLCK, struct.pack("i", 0))
        slave = fcntl.ioctl(master, _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        # Made by the host's account; any user inside who is given it may open it by name too.
        os.fchmod(slave, 0o666)
        fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))
    except BaseException:
        os.close(master)
        raise
    return master, slave


def _open_beneath(root: int, path: str, flags: int) -> int:
    how = struct.pack(
        "QQQ", flags, 0, _RESOLVE_IN_ROOT | _RESOLVE_NO_SYMLINKS | _RESOLVE_NO_MAGICLINKS
    )
    libc = ctypes.CDLL(None, use_errno=True)
    fd = int(libc.syscall(ctypes.c_long(_OPENAT2), root, path.encode(), how, len(how)))
    if fd < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return fd
