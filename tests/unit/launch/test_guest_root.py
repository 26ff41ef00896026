"""The root of a process is reached while it lives, and its end is told as the end of a sandbox."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from atoll.launch.linux.guest_root import open_root
from atoll.model import SandboxDied


def test_the_root_of_one_that_lives() -> None:
    root = open_root(os.getpid())
    try:
        assert os.path.samestat(os.fstat(root), Path("/").stat())
    finally:
        os.close(root)


def test_one_that_ended_and_one_that_was_reaped_are_dead() -> None:
    with subprocess.Popen(["true"]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(SandboxDied, match=r"\[box\] its guest has ended"):
            open_root(child.pid, "box")
    with pytest.raises(SandboxDied):
        open_root(child.pid)


def test_one_that_ended_and_was_not_dumpable_is_dead() -> None:
    hide = "import ctypes; ctypes.CDLL(None).prctl(4, 0)"
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", hide]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(SandboxDied):
            open_root(child.pid)


def test_one_that_is_being_reaped_is_dead_too() -> None:
    for _ in range(300):
        with subprocess.Popen(["true"]) as child:
            while True:
                try:
                    os.close(open_root(child.pid))
                except SandboxDied:
                    break
                child.poll()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may look at every process")
def test_one_that_may_not_be_looked_at_is_not_called_dead() -> None:
    with pytest.raises(PermissionError):
        open_root(1)
