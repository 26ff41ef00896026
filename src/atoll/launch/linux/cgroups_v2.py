"""One sandbox's cgroup on version 2: one directory with every controller.

Source: Linux Documentation/admin-guide/cgroup-v2.rst. Which files exist follows from the
controllers that the parent turned on, so each is used only where its controller is.
"""

from __future__ import annotations

from atoll.launch.linux.cgroups_cgroup import Cgroup, cpu_bandwidth
from atoll.launch.linux.cgroups_tree import Tree, read_field
from atoll.launch.linux.cgroups_usage import CgroupUsage, Gauge, read_usage
from atoll.launch.linux.kept_files import DescriptorBudget
from atoll.model import Limits

_GAUGES = {
    "cpu_time": Gauge("", "cpu.stat", b"usage_usec", 1e6),
    "memory": Gauge("memory", "memory.current"),
    "memory_peak": Gauge("memory", "memory.peak"),  # Linux 5.19
    "memory_cache": Gauge("memory", "memory.stat", b"file"),
    "pids": Gauge("pids", "pids.current"),
    "throttled_periods": Gauge("cpu", "cpu.stat", b"nr_throttled"),
    "throttled_time": Gauge("cpu", "cpu.stat", b"throttled_usec", 1e6),
    "oom_kills": Gauge("memory", "memory.events", b"oom_kill"),
}


class CgroupV2(Cgroup):
    """The directory `name` in the owner's tree."""

    def __init__(
        self,
        name: str,
        tree: Tree,
        controllers: frozenset[str],
        budget: DescriptorBudget | None = None,
    ) -> None:
        self._tree = tree
        self._controllers = controllers
        offered = controllers | {""}
        self._gauges = {n: gauge for n, gauge in _GAUGES.items() if gauge.controller in offered}
        super().__init__(name, (tree,), budget)

    def paths_inside(self) -> dict[str, str]:
        """The one path."""
        return {"": self._path_inside(self._tree)}

    def make(self) -> None:
        """Create it, and let a zygote that is handed its directory clone a process into it."""
        super().make()
        self._tree.set_mode(self.name, "cgroup.procs", 0o666)

    def apply(self, limits: Limits) -> None:
        """Set the limits; to None the kernel's default, no limit, is left."""
        memory = limits.bytes_of("memory")
        if memory is not None:
            self._tree.write(self.name, "memory.max", str(memory))
            if self._tree.has(self.name, "memory.swap.max"):
                self._tree.write(self.name, "memory.swap.max", "0")
        if "memory" in self._controllers:
            # Out of memory ends the sandbox whole, never one process that others then wait for.
            self._tree.write(self.name, "memory.oom.group", "1")
        if limits.pids is not None:
            self._tree.write(self.name, "pids.max", str(limits.pids))
        if limits.cpu is not None:
            quota, period = cpu_bandwidth(limits.cpu)
            self._tree.write(self.name, "cpu.max", f"{quota} {period}")

    def usage(self) -> CgroupUsage:
        """See Cgroup.usage; CPU time is counted without a controller as well."""
        return read_usage(self._gauges, lambda _, file: self._kept.read(self._tree, file))

    def oom_kills(self) -> int:
        """How often the kernel killed one of its processes for the memory limit."""
        return self._event("memory", "memory.events", "oom_kill")

    def pids_denied(self) -> int:
        """How often a fork failed for the pids limit."""
        return self._event("pids", "pids.events", "max")

    def is_empty(self) -> bool:
        """Whether no process is left, below it included."""
        try:
            return read_field(self._tree.read(self.name, "cgroup.events"), "populated") == 0
        except FileNotFoundError:
            return True

    def can_freeze(self) -> bool:
        """Always (cgroup.freeze came with Linux 5.2)."""
        return True

    def _set_frozen(self, frozen: bool) -> None:
        self._tree.write(self.name, "cgroup.freeze", "1" if frozen else "0")

    def _is_frozen(self) -> bool:
        return read_field(self._tree.read(self.name, "cgroup.events"), "frozen") == 1

    def _stop_forks(self) -> bool:
        if "pids" not in self._controllers:
            return False
        self._tree.write(self.name, "pids.max", "0")
        return True

    def _kill_now(self) -> None:
        try:
            # Reaches every process at once, forks in flight included (Linux 5.14).
            self._tree.write(self.name, "cgroup.kill", "1")
        except FileNotFoundError:
            if self._tree.has(self.name, "cgroup.procs"):
                super()._kill_now()

    def _event(self, controller: str, file: str, key: str) -> int:
        if controller not in self._controllers:
            return 0
        return read_field(self._tree.read(self.name, file), key)
