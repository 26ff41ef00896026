"""Memory as the kernel accounts it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from atoll.bench.memory import Memory, available, memory_of, processes_beside

_ROLLUP = "55d0-7ffe ---p 00000000 00:00 0 [rollup]\nRss: 900 kB\nPss: 300 kB\n" + (
    "Shared_Clean: 500 kB\nPrivate_Clean: 100 kB\nPrivate_Dirty: 50 kB\n"
)


def test_sums_over_processes(tmp_path: Path) -> None:
    for pid in ("1", "2"):
        (tmp_path / pid).mkdir()
        (tmp_path / pid / "smaps_rollup").write_text(_ROLLUP)
    assert memory_of([1, 2], tmp_path) == Memory(300 * 1024, 600 * 1024)


def test_processes_of_one_pid_namespace(tmp_path: Path) -> None:
    for pid, namespace in (("1", "pid:[1]"), ("2", "pid:[2]"), ("3", "pid:[1]")):
        (tmp_path / pid / "ns").mkdir(parents=True)
        (tmp_path / pid / "ns" / "pid").symlink_to(namespace)
    (tmp_path / "self").mkdir()
    (tmp_path / "4").mkdir()
    assert sorted(processes_beside(1, tmp_path)) == [1, 3]


def test_the_real_kernel_answers() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert child.pid in processes_beside(os.getpid())
        assert memory_of([child.pid]).proportional > 0
        child.communicate(b"\n")
    assert available() > 0
