"""Threads of numerical libraries: one while a zygote warms up, the sandbox's share after."""

from __future__ import annotations

import os
import sys
from typing import Any

_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
CPU_COUNT_VARIABLE = "ATOLL_CPUS"
"""Names how many CPUs the sandbox may use; without it those of the affinity mask count."""


def hold_to_one() -> None:
    """Before the first import: a library with one thread starts none (a zygote must have one)."""
    for name in _VARIABLES:
        os.environ[name] = "1"


def find_libraries() -> Any:
    """A controller of the loaded libraries, or None; finding them takes milliseconds."""
    if "numpy" not in sys.modules:
        return None
    try:
        from threadpoolctl import ThreadpoolController
    except ImportError:
        return None
    return ThreadpoolController()


def release_environment() -> None:
    """After the fork: programs that a cell starts may use every CPU there is."""
    for name in _VARIABLES:
        if os.environ.get(name) == "1":
            del os.environ[name]


def lift(controller: Any) -> None:
    """Let the libraries that `find_libraries` found use every CPU there is.

    It starts their threads, which for some milliseconds take CPU time from the cell.
    """
    if controller is None:
        return
    count = cpu_count()
    if count > 1:
        for library in controller.lib_controllers:
            library.set_num_threads(count)


def cpu_count() -> int:
    """How many CPUs this sandbox may use."""
    try:
        return max(1, int(float(os.environ.get(CPU_COUNT_VARIABLE, ""))))
    except ValueError:
        return len(os.sched_getaffinity(0))
