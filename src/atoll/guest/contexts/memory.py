"""The memory of a zygote, made cheap to fork: little of it, in huge pages.

A fork copies one entry of a page table for each page that is there: 4 KiB, or 2 MiB where the
memory is one huge page. A fork that writes into a huge page gets its own copy of 4 KiB of it.
"""

from __future__ import annotations

import ctypes

_HUGE = 2 << 20
_MADV_COLLAPSE = 25  # Linux 6.1


def give_back() -> None:
    """Return what was freed to the kernel."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def make_huge() -> None:
    """Put what lies in whole huge pages into them; where the kernel will not, all stays as it is.

    See madvise(2), MADV_COLLAPSE: it works by itself, whatever the machine's setting for huge
    pages is.
    """
    libc = ctypes.CDLL(None)
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    for start, end in _anonymous():
        for address in range(-(-start // _HUGE) * _HUGE, end - _HUGE + 1, _HUGE):
            libc.madvise(address, _HUGE, _MADV_COLLAPSE)


def _anonymous() -> list[tuple[int, int]]:
    """The heap and what was mapped without a file, as address ranges (proc_pid_maps(5))."""
    found = []
    with open("/proc/self/maps") as maps:
        for line in maps:
            place, rights, _, _, inode, *name = line.split(maxsplit=5)
            if rights == "rw-p" and inode == "0" and name in ([], ["[heap]\n"]):
                start, _, end = place.partition("-")
                found.append((int(start, 16), int(end, 16)))
    return found
