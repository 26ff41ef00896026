"""Closing ranges of descriptors."""

from __future__ import annotations

import os

from atoll.guest.descriptors import ALL, close_range


def test_a_range_is_closed_and_nothing_else() -> None:
    child = os.fork()
    if child == 0:
        null = os.open("/dev/null", os.O_RDONLY)
        os.dup2(null, 100)
        os.dup2(null, 101)
        close_range(100, 100)
        os.fstat(100)
        close_range(100, 101)
        os.fstat(101)
        closed = _is_closed(100)
        close_range(101, ALL)
        os._exit(0 if closed and _is_closed(101) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def _is_closed(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return True
    return False
