"""The substitutes of the table are as tight as it says, on this kernel."""

from __future__ import annotations

import os
import resource
import signal
import time
from pathlib import Path
from typing import NoReturn

import pytest

from atoll.launch.linux import syscalls

FIRST = 1879048192 + (200 << 14)
"""A host id that no account has, and that no sandbox of this run is given."""
LIMIT = 10


def _become(number: int) -> None:
    os.setresgid(number, number, number)
    os.setresuid(number, number, number)


def _fill(counter: int) -> NoReturn:
    """Fork until it is refused, as each of several ids, and write a byte for each process."""
    _become(0)
    for number in range(1, 6):
        try:
            if os.fork() != 0:
                continue
        except BlockingIOError:
            break
        _become(number)
        os.write(counter, b"x")
        try:
            while True:
                if os.fork() == 0:
                    os.write(counter, b"x")
                    break
        except BlockingIOError:
            pass
        time.sleep(60)
    time.sleep(60)
    os._exit(0)


@pytest.mark.skipif(os.geteuid() != 0, reason="mapping several ids needs root")
def test_nproc_of_a_user_namespace_bounds_all_its_ids_together() -> None:
    ready, counter, go = os.pipe(), os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            resource.setrlimit(resource.RLIMIT_NPROC, (LIMIT, LIMIT))
            _become(FIRST)
            syscalls.unshare(syscalls.CLONE_NEWUSER)
            syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)
            os.write(ready[1], b"1")
            os.read(go[0], 1)
            _fill(counter[1])
        finally:
            os._exit(1)
    try:
        os.read(ready[0], 1)
        for file in ("uid_map", "gid_map"):
            Path("/proc", str(pid), file).write_text(f"0 {FIRST} 100")
        os.write(go[1], b"1")
        time.sleep(1)
        # One more than was written: the first process.
        assert len(os.read(counter[0], 1000)) == LIMIT - 1
    finally:
        os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        for descriptor in (*ready, *counter, *go):
            os.close(descriptor)
