"""What a sandbox's cgroup can do, on either version of the kernel's interface."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from abc import ABC, abstractmethod
from pathlib import Path

from atoll.launch.linux.cgroups_tree import Tree, remove_with_patience
from atoll.launch.linux.cgroups_usage import CgroupUsage
from atoll.launch.linux.kept_files import DescriptorBudget, KeptFiles
from atoll.model import InvalidLimit, Limits, LimitUnavailable

_FREEZE_PATIENCE = 2.0
_KILL_PATIENCE = 5.0
_REMOVE_PATIENCE = 2.0
_KILL_BATCH = 64
_SMALLEST_QUOTA = 1000  # microseconds: min_cfs_quota_period, kernel/sched/core.c


def cpu_bandwidth(cores: float) -> tuple[int, int]:
    """Quota and period in microseconds for so many cores.

    Raises:
        InvalidLimit: below the kernel's smallest quota, one thousandth of a core.
    """
    for period in (100_000, 1_000_000):
        quota = int(cores * period)
        if quota >= _SMALLEST_QUOTA:
            return quota, period
    raise InvalidLimit(f"limit cpu must be at least 0.001, not {cores}")


class Cgroup(ABC):
    """The cgroup of one sandbox; `remove` ends it."""

    def __init__(
        self, name: str, trees: tuple[Tree, ...], budget: DescriptorBudget | None = None
    ) -> None:
        self.name = name
        self._trees = trees
        self._kept = KeptFiles(name, budget or DescriptorBudget(0))

    @property
    def paths(self) -> tuple[Path, ...]:
        """Its directories, one a hierarchy."""
        return tuple(tree.path / self.name for tree in self._trees)

    @abstractmethod
    def paths_inside(self) -> dict[str, str]:
        """Controller (on version 2 "") to the end that its path in /proc/PID/cgroup has."""

    def _path_inside(self, tree: Tree) -> str:
        return "/" + "/".join((*tree.path.parts[-2:], self.name))

    def make(self) -> None:
        """Create it everywhere or nowhere. Raises FileExistsError if the name is taken."""
        made: list[Tree] = []
        try:
            for tree in self._trees:
                tree.make(self.name)
                made.append(tree)
        except OSError:
            for tree in made:
                tree.remove(self.name)
            raise

    def attach(self, pid: int) -> None:
        """Move a process in, with all its threads.

        After a quiet time the kernel waits here for a grace period of some milliseconds; prefer
        `join_descriptors` or, on version 2, a clone into it (`Cgroups.clone_root`).
        """
        for tree in self._trees:
            tree.write(self.name, "cgroup.procs", str(pid))

    def join_descriptors(self) -> tuple[int, ...]:
        """Version 1: new descriptors to which a single-threaded child itself writes ``b"0"``.

        They were opened with our rights, so the child needs none. It closes them before anything
        of a client runs. Empty on version 2, where such a write waits as `attach` does.
        """
        return ()

    def processes(self) -> list[int]:
        """The processes in it, as numbers of our own pid namespace."""
        try:
            text = self._trees[0].read(self.name, "cgroup.procs")
        except (FileNotFoundError, OSError) as error:
            if isinstance(error, FileNotFoundError) or error.errno == errno.ENODEV:
                return []
            raise
        return [int(line) for line in text.split() if line != "0"]

    def is_empty(self) -> bool:
        """Whether no process is left."""
        return not self.processes()

    def freeze(self) -> None:
        """Stop every process.

        Raises:
            LimitUnavailable: nothing can freeze here, or a process did not stop in time.
        """
        if not self.can_freeze():
            raise LimitUnavailable(
                "this sandbox cannot be paused: no cgroup freezer is mounted here",
                hint="mount the freezer hierarchy, or boot with cgroup v2.",
            )
        self._set_frozen(True)
        if not self._wait_frozen(_FREEZE_PATIENCE):
            self._set_frozen(False)
            raise LimitUnavailable("this sandbox could not be paused: a process did not stop")

    def thaw(self) -> None:
        """Let them run on."""
        if self.can_freeze():
            self._set_frozen(False)

    def kill(self, patience: float = _KILL_PATIENCE) -> bool:
        """End every process and wait until none is left; False if one was after `patience` s."""
        deadline = time.monotonic() + patience
        pause = 0.0005
        while not self.is_empty():
            self.kill_once()
            if self.is_empty():
                break
            if time.monotonic() >= deadline:
                return False
            time.sleep(pause)
            pause = min(pause * 2, 0.02)
        return True

    def kill_once(self) -> None:
        """Send SIGKILL to every process, without waiting; `is_empty` tells when they are gone."""
        self._kill_now()

    def remove(self, patience: float = _REMOVE_PATIENCE) -> bool:
        """Remove the directories, waiting for the last process; may be called twice.

        Returns False if something is still in it: kill first.
        """
        self._kept.close()
        deadline = time.monotonic() + patience
        return all([remove_with_patience(tree, self.name, deadline) for tree in self._trees])

    def _kill_now(self) -> None:
        """SIGKILL to each, by descriptor: a pid may be somebody else's between look and signal."""
        with contextlib.suppress(FileNotFoundError):
            if not self._stop_forks() and self.can_freeze():
                self._set_frozen(True)
                self._wait_frozen(0.02)
            pids = self.processes()
            for start in range(0, len(pids), _KILL_BATCH):
                self._kill_batch(pids[start : start + _KILL_BATCH])
            # A paused sandbox must run to die.
            self.thaw()

    def _kill_batch(self, pids: list[int]) -> None:
        opened: dict[int, int] = {}
        try:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    opened[pid] = os.pidfd_open(pid)
            # Still listed, now that the descriptor pins it: it is the one that is in here.
            for pid in opened.keys() & set(self.processes()):
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(opened[pid], signal.SIGKILL)
        finally:
            for descriptor in opened.values():
                os.close(descriptor)

    def _wait_frozen(self, patience: float) -> bool:
        deadline = time.monotonic() + patience
        while not self._is_frozen():
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.0005)
        return True

    @abstractmethod
    def apply(self, limits: Limits) -> None:
        """Set memory, cpu and pids of `limits`."""

    @abstractmethod
    def usage(self) -> CgroupUsage:
        """What its processes use now. Raises FileNotFoundError if it was removed."""

    def cpu_time(self) -> float | None:
        """Seconds used by all its processes, the dead ones included."""
        return self.usage().cpu_time

    def memory(self) -> int | None:
        """Bytes charged now; None where nothing counts them."""
        return self.usage().memory

    def memory_peak(self) -> int | None:
        """The most bytes ever charged; None where nothing counts them."""
        return self.usage().memory_peak

    def pids(self) -> int | None:
        """Processes and threads now; None where nothing counts them."""
        return self.usage().pids

    @abstractmethod
    def oom_kills(self) -> int:
        """How often the kernel killed one of its processes for the memory limit."""

    @abstractmethod
    def pids_denied(self) -> int:
        """How often a fork failed for the pids limit."""

    @abstractmethod
    def can_freeze(self) -> bool:
        """Whether `freeze` can work here."""

    @abstractmethod
    def _set_frozen(self, frozen: bool) -> None: ...

    @abstractmethod
    def _is_frozen(self) -> bool: ...

    @abstractmethod
    def _stop_forks(self) -> bool:
        """Let nothing fork any more; False where nothing can see to that."""
