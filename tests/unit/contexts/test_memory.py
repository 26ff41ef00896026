"""The memory of a zygote."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from atoll.guest.contexts import memory

_PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
import mmap
import memory
kept = mmap.mmap(-1, 16 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for place in range(0, 16 << 20, 4096):
    kept[place:place + 4] = place.to_bytes(4, "big")
memory.make_huge()
for place in range(0, 16 << 20, 4096):
    assert kept[place:place + 4] == place.to_bytes(4, "big")
with open("/proc/self/smaps_rollup") as text:
    print(next(line.split()[1] for line in text if line.startswith("AnonHugePages")))
"""


def test_anonymous_memory_goes_into_huge_pages_and_keeps_its_content() -> None:
    directory = str(Path(memory.__file__).parent)
    done = subprocess.run(
        [sys.executable, "-I", "-c", _PROGRAM, directory],
        capture_output=True,
        text=True,
        check=True,
    )
    if done.stdout.strip() == "0":
        pytest.skip("this kernel gives no huge pages (MADV_COLLAPSE is Linux 6.1)")
    assert int(done.stdout) >= 14 << 10
