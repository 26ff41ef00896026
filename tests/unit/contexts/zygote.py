"""A zygote as the launcher has it: warms up, then forks a context for every request.

Usage: zygote.py GUEST_ROOT SAME_PIDS MODULE... with a socket as descriptor 3. With SAME_PIDS 1
every context is process 1 of a pid namespace of its own, as the zygote itself is in its own.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import signal
import socket
import sys
from pathlib import Path

NEWPID = 0x20000000
FIRST_FREE = 4


def main() -> None:
    """Serve requests: one byte with control, stdout and stderr of the context."""
    root, same_pids, *modules = sys.argv[1:]
    sys.path.append(root)
    from atoll.guest import dispositions
    from atoll.guest.contexts import python

    python.warm([name for name in modules if name != "--plain"], plain="--plain" in modules)
    draw()
    dispositions.reset()
    home = os.open("/proc/self/ns/pid", os.O_RDONLY)
    libc = ctypes.CDLL(None, use_errno=True)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    host = socket.socket(fileno=3)
    host.send(b"%d" % len(list(Path("/proc/self/task").iterdir())))
    while True:
        data, fds, _, _ = socket.recv_fds(host, 1, 3)
        if not data:
            return
        if same_pids == "1" and libc.unshare(NEWPID) != 0:
            raise OSError(ctypes.get_errno(), "unshare")
        if os.fork() == 0:
            for number, fd in zip((3, 1, 2), map(os.dup, fds), strict=True):
                os.dup2(fd, number)
            os.closerange(FIRST_FREE, 256)
            python.serve(3)
        if same_pids == "1":
            libc.setns(home, NEWPID)
        for fd in fds:
            os.close(fd)


def draw() -> None:
    """Use every generator, so that its state would be shared by the forks."""
    import random
    import uuid

    random.random()
    uuid.uuid1()
    if "ssl" in sys.modules:
        sys.modules["ssl"].RAND_bytes(8)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.random()
    if "cryptography" in sys.modules:
        ec = importlib.import_module("cryptography.hazmat.primitives.asymmetric.ec")

        ec.generate_private_key(ec.SECP256R1())


if __name__ == "__main__":
    main()
