"""The cgroup of a sandbox where this process may make none: it holds and counts nothing.

Limits that need one were refused before; what is left is killed through its pid namespace.
"""

from __future__ import annotations

from atoll.launch.linux.cgroups_cgroup import Cgroup
from atoll.launch.linux.cgroups_usage import CgroupUsage
from atoll.model import Limits


class NoCgroup(Cgroup):
    """Stands in, so that a sandbox always has one."""

    def __init__(self, name: str) -> None:
        super().__init__(name, ())

    def paths_inside(self) -> dict[str, str]:
        """Nothing to check."""
        return {}

    def apply(self, limits: Limits) -> None:
        """Nothing: `Cgroups.create` has refused what would be needed."""

    def processes(self) -> list[int]:
        """None that are known."""
        return []

    def usage(self) -> CgroupUsage:
        """Nothing is counted."""
        return CgroupUsage()

    def oom_kills(self) -> int:
        """None that are known."""
        return 0

    def pids_denied(self) -> int:
        """None that are known."""
        return 0

    def can_freeze(self) -> bool:
        """Never."""
        return False

    def _set_frozen(self, frozen: bool) -> None:
        raise AssertionError("can_freeze() says no")

    def _is_frozen(self) -> bool:
        return False

    def _stop_forks(self) -> bool:
        return False
