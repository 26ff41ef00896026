"""One sandbox's cgroup on version 1: one directory in each controller's hierarchy.

Source: Linux Documentation/admin-guide/cgroup-v1/{memory,pids,cpuacct,freezer-subsystem}.rst,
Documentation/scheduler/sched-bwc.rst.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping

from atoll.launch.linux.cgroups_cgroup import Cgroup, cpu_bandwidth
from atoll.launch.linux.cgroups_tree import Tree, read_field
from atoll.model import Limits


class CgroupV1(Cgroup):
    """Directories `name` in the trees of memory, pids, cpu, cpuacct and freezer, as mounted."""

    def __init__(self, name: str, trees: Mapping[str, Tree]) -> None:
        self._of = trees
        # cpu and cpuacct are often one mount, and then one tree object.
        super().__init__(name, tuple({id(tree): tree for tree in trees.values()}.values()))

    def paths_inside(self) -> dict[str, str]:
        """One path a controller."""
        return {controller: self._path_inside(tree) for controller, tree in self._of.items()}

    def apply(self, limits: Limits) -> None:
        """Set the limits; to None the kernel's default, no limit, is left."""
        memory = limits.bytes_of("memory")
        if memory is not None:
            self._apply_memory(memory)
        if limits.pids is not None:
            self._of["pids"].write(self.name, "pids.max", str(limits.pids))
        if limits.cpu is not None:
            self._apply_cpu(limits.cpu)

    def _apply_memory(self, size: int) -> None:
        tree = self._of["memory"]
        tree.write(self.name, "memory.limit_in_bytes", str(size))
        try:
            # Memory and swap together: no swap beyond the limit.
            tree.write(self.name, "memory.memsw.limit_in_bytes", str(size))
        except (FileNotFoundError, PermissionError):
            # No swap accounting (swapaccount=0): not swapping is the next tightest.
            tree.write(self.name, "memory.swappiness", "0")

    def _apply_cpu(self, cores: float) -> None:
        tree = self._of["cpu"]
        quota, period = cpu_bandwidth(cores)
        tree.write(self.name, "cpu.cfs_period_us", str(period))
        try:
            tree.write(self.name, "cpu.cfs_quota_us", str(quota))
        except OSError as error:
            # EINVAL: a cgroup above has a smaller quota, which then holds this one too.
            if error.errno != errno.EINVAL:
                raise

    def join_descriptors(self) -> tuple[int, ...]:
        """`tasks` of every hierarchy: a writer that moves itself alone takes no global lock."""
        opened: list[int] = []
        try:
            for tree in self._trees:
                opened.append(tree.open(self.name, "tasks", os.O_WRONLY))
        except OSError:
            for descriptor in opened:
                os.close(descriptor)
            raise
        return tuple(opened)

    def cpu_time(self) -> float | None:
        """Seconds used by all its processes, the dead ones included."""
        nanoseconds = self._number("cpuacct", "cpuacct.usage")
        return None if nanoseconds is None else nanoseconds / 1e9

    def memory(self) -> int | None:
        """Bytes charged now."""
        return self._number("memory", "memory.usage_in_bytes")

    def memory_peak(self) -> int | None:
        """The most bytes ever charged."""
        return self._number("memory", "memory.max_usage_in_bytes")

    def pids(self) -> int | None:
        """Processes and threads now."""
        return self._number("pids", "pids.current")

    def oom_kills(self) -> int:
        """How often the kernel killed one of its processes for the memory limit."""
        return self._event("memory", "memory.oom_control", "oom_kill")

    def pids_denied(self) -> int:
        """How often a fork failed for the pids limit."""
        return self._event("pids", "pids.events", "max")

    def can_freeze(self) -> bool:
        """Whether the freezer hierarchy is there."""
        return "freezer" in self._of

    def _set_frozen(self, frozen: bool) -> None:
        state = "FROZEN" if frozen else "THAWED"
        self._of["freezer"].write(self.name, "freezer.state", state)

    def _is_frozen(self) -> bool:
        return self._of["freezer"].read(self.name, "freezer.state").strip() == "FROZEN"

    def _stop_forks(self) -> bool:
        if "pids" not in self._of:
            return False
        self._of["pids"].write(self.name, "pids.max", "0")
        return True

    def _number(self, controller: str, file: str) -> int | None:
        tree = self._of.get(controller)
        return None if tree is None else int(tree.read(self.name, file))

    def _event(self, controller: str, file: str, key: str) -> int:
        tree = self._of.get(controller)
        return 0 if tree is None else read_field(tree.read(self.name, file), key)
