"""System call numbers in the probes are those of the kernel's own headers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from atoll.testing.attacks.probes.numbers import NUMBERS

# x86_64 headers lie under the multiarch directory on Debian, under /usr/include/asm elsewhere.
_HEADERS = {
    "x86_64": (
        "/usr/include/x86_64-linux-gnu/asm/unistd_64.h",
        "/usr/include/asm/unistd_64.h",
    ),
    "aarch64": ("/usr/include/asm-generic/unistd.h",),
}
# Left out of newer headers: the numbers stay reserved.
_GONE = {"_sysctl", "nfsservctl", "uselib", "ustat", "sysfs"}


@pytest.mark.parametrize("machine", sorted(NUMBERS))
def test_numbers_match_the_headers(machine: str) -> None:
    header = next((Path(path) for path in _HEADERS[machine] if Path(path).exists()), None)
    if header is None:
        pytest.skip(f"no kernel headers for {machine} here")
    text = header.read_text()
    found = {
        name: int(number)
        for name, number in re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", text)
    }
    for name, number in NUMBERS[machine].items():
        if name in found or name not in _GONE:
            assert found.get(name) == number, name
