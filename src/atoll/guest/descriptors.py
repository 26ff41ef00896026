"""Closes ranges of descriptors in one system call, whatever this Python was built with.

`os.closerange` closes one by one where the C library of the build had no close_range(2): a
million calls in every child. The call has one number everywhere (asm-generic/unistd.h).
"""

from __future__ import annotations

import ctypes
import os
import sys

ALL = 1 << 20
_CLOSE_RANGE = 436
_FEW = 4096

_libc = ctypes.CDLL(None, use_errno=True)


def close_range(low: int, high: int) -> None:
    """Close the descriptors from `low` up to `high`, which stays open."""
    if low >= high:
        return
    if sys.platform == "linux" and high - low > 1:
        first, last = ctypes.c_uint(low), ctypes.c_uint(high - 1)
        if _libc.syscall(ctypes.c_long(_CLOSE_RANGE), first, last, ctypes.c_uint(0)) == 0:
            return
    os.closerange(low, min(high, max(low, _FEW)))
