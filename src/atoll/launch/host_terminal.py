"""A terminal of the host's own, for launchers whose sandboxes have no devpts."""

from __future__ import annotations

import fcntl
import os
import struct
import termios


def open_pty(rows: int, cols: int) -> tuple[int, int]:
    """Master (non-blocking) and slave of a new terminal of this size."""
    master, slave = os.openpty()
    for fd in (master, slave):
        os.set_inheritable(fd, False)
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))
    os.set_blocking(master, False)
    return master, slave
