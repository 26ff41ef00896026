"""Which limit has just ended something in a sandbox, as far as the kernel tells."""

from __future__ import annotations

from atoll.launch import LaunchedSandbox
from atoll.model import KilledBy, SandboxError

_FULL = 1 << 16  # bytes left of a disk on which the next write fails


class Breaches:
    """Asked only when something has failed, as each answer costs some reads in /sys and /proc."""

    def __init__(self, launched: LaunchedSandbox) -> None:
        self._launched = launched
        self._was_full = False

    def found(self) -> KilledBy | None:
        """A limit that was reached since the last call."""
        found = self._launched.breach()
        if found is not None:
            return found
        was_full, self._was_full = self._was_full, self._is_full()
        return KilledBy.DISK if self._was_full and not was_full else None

    def cpu_time(self) -> float | None:
        """CPU seconds used so far; None if nobody counts, or nobody is left."""
        try:
            return self._launched.metrics().cpu_time
        except (SandboxError, OSError):
            return None

    def _is_full(self) -> bool:
        try:
            usage = self._launched.metrics()
        except (SandboxError, OSError):
            return False  # its first process has just ended, and its view of the disk with it
        if usage.disk is None or usage.disk_total is None:
            return False
        return usage.disk_total - usage.disk < _FULL
