"""Unix sockets by path, however deep the path is: its owner alone may connect."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def listening(path: Path, kind: socket.SocketKind, backlog: int) -> socket.socket:
    """A new listener at `path`, in the place of what was there. Raises OSError."""
    listener = socket.socket(socket.AF_UNIX, kind)
    try:
        path.unlink(missing_ok=True)
        # Before bind, as the file's mode is what guards it; umask(2) would be the whole process's.
        os.fchmod(listener.fileno(), 0o600)
        with _address(path) as address:
            listener.bind(address)
        path.chmod(0o600)
        listener.listen(backlog)
    except BaseException:
        listener.close()
        raise
    return listener


def connected(path: Path, kind: socket.SocketKind, seconds: float | None = None) -> socket.socket:
    """A socket connected to the listener at `path`; `seconds` is its time-out. Raises OSError."""
    sock = socket.socket(socket.AF_UNIX, kind)
    try:
        sock.settimeout(seconds)
        with _address(path) as address:
            sock.connect(address)
    except BaseException:
        sock.close()
        raise
    return sock


@contextmanager
def _address(path: Path) -> Iterator[str]:
    """An address for bind or connect.

    Addresses end at 107 bytes (unix(7)); a data directory may lie deeper, so on Linux the way
    goes through a descriptor of the directory.
    """
    if not Path("/proc/self/fd").is_dir():
        yield str(path)
        return
    fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{path.name}"
    finally:
        os.close(fd)
