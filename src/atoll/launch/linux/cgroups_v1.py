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
from atoll.launch.linux.cgroups_usage import CgroupUsage, Gauge, read_usage
from atoll.launch.linux.kept_files import DescriptorBudget
from atoll.model import Limits

_GAUGES = {
    "cpu_time": Gauge("cpuacct", "cpuacct.usage", unit=1e9),
    "memory": Gauge("memory", "memory.usage_in_bytes"),
    "memory_peak": Gauge("memory", "memory.max_usage_in_bytes"),
    "memory_cache": Gauge("memory", "memory.stat", b"cache"),
    "pids": Gauge("pids", "pids.current"),
    "throttled_periods": Gauge("cpu", "cpu.stat", b"nr_throttled"),
    "throttled_time": Gauge("cpu", "cpu.stat", b"throttled_time", 1e9),
    "oom_kills": Gauge("memory", "memory.oom_control", b"oom_kill"),
}


class CgroupV1(Cgroup):
    """Directories `name` in the trees of memory, pids, cpu, cpuacct and freezer, as mounted."""

    def __init__(
        self, name: str, trees: Mapping[str, Tree], budget: DescriptorBudget | None = None
    ) -> None:
        self._of = trees
        self._gauges = {n: gauge for n, gauge in _GAUGES.items() if gauge.controller in trees}
        # cpu and cpuacct are often one mount, and then one tree object.
        super().__init__(name, tuple({id(tree): tree for tree in trees.values()}.values()), budget)

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

    def usage(self) -> CgroupUsage:
        """See Cgroup.usage."""
        return read_usage(self._gauges, lambda on, file: self._kept.read(self._of[on], file))

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

    def _event(self, controller: str, file: str, key: str) -> int:
        tree = self._of.get(controller)
        return 0 if tree is None else read_field(tree.read(self.name, file), key)
