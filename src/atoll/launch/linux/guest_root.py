"""The root directory of a running guest, as the host reaches it."""

from __future__ import annotations

import os
from pathlib import Path

from atoll.model import SandboxDied


def open_root(pid: int, sandbox_id: str | None = None) -> int:
    """The root of the process `pid`, as a descriptor that paths can start at.

    Raises:
        SandboxDied: it has ended.
    """
    try:
        return os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        pass
    except PermissionError:
        # So some kernels answer for what has ended and was not dumpable (ptrace(2)).
        if _lives(pid):
            raise
    raise SandboxDied("its guest has ended", sandbox_id=sandbox_id)


def _lives(pid: int) -> bool:
    """False for a zombie as well."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZXx"
