"""A sandbox that runs in namespaces of ours, whichever process made it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from abc import abstractmethod
from collections.abc import Callable

import anyio

from atoll.launch.alive import EndsOnce
from atoll.launch.linux import guest_root, terminal
from atoll.launch.linux.cgroups_cgroup import Cgroup
from atoll.launch.port import ContextPorts, ContextProcess
from atoll.model import KilledBy, Metrics, SandboxDied, SandboxSpec

END_SECONDS = 10.0


class RunningSandbox(EndsOnce):
    """What its guest's pidfd, its channel and its cgroup are enough for."""

    def __init__(self, spec: SandboxSpec, forget: Callable[[], None]) -> None:
        super().__init__(forget)
        self.spec = spec
        self.pid = -1
        self.channel: socket.socket
        self._pidfd = -1
        self._cgroup: Cgroup | None = None
        self._seen = (0, 0)

    @property
    def id(self) -> str:
        """The id of its spec."""
        return self.spec.id

    @abstractmethod
    async def fork_context(self, ports: ContextPorts, process: ContextProcess) -> bool:
        """See LaunchedSandbox.fork_context."""

    @abstractmethod
    def _release(self) -> None:
        """Give back what belongs to it elsewhere; no process of it is left."""

    def open_pty(self, rows: int, cols: int) -> tuple[int, int]:
        """See LaunchedSandbox.open_pty."""
        return terminal.open_pty(self.pid, rows, cols)

    def metrics(self) -> Metrics:
        """See LaunchedSandbox.metrics."""
        if self._gone or self._cgroup is None:
            raise SandboxDied("the sandbox is gone", sandbox_id=self.id)
        root = guest_root.open_root(self.pid, self.id)
        try:
            disk = os.fstatvfs(root)
        finally:
            os.close(root)
        try:
            used = self._cgroup.usage()
        except FileNotFoundError:
            raise SandboxDied("its guest has ended", sandbox_id=self.id) from None
        return Metrics(
            cpu_time=used.cpu_time,
            memory=used.memory,
            memory_peak=used.memory_peak,
            pids=used.pids,
            disk=(disk.f_blocks - disk.f_bfree) * disk.f_frsize,
            disk_total=disk.f_blocks * disk.f_frsize,
            memory_limit=self.spec.limits.bytes_of("memory"),
            memory_cache=used.memory_cache,
            inodes=disk.f_files - disk.f_ffree,
            inodes_total=disk.f_files,
            throttled_periods=used.throttled_periods,
            throttled_time=used.throttled_time,
            oom_kills=used.oom_kills,
        )

    def breach(self) -> KilledBy | None:
        """See LaunchedSandbox.breach."""
        if self._cgroup is None:
            return None
        kills, denied = self._cgroup.oom_kills(), self._cgroup.pids_denied()
        before = self._seen
        self._seen = (kills, denied)
        if kills > before[0]:
            return KilledBy.MEMORY
        return KilledBy.PIDS if denied > before[1] else None

    def freeze(self) -> None:
        """See LaunchedSandbox.freeze."""
        if self._cgroup is not None:
            self._cgroup.freeze()

    def thaw(self) -> None:
        """See LaunchedSandbox.thaw."""
        if self._cgroup is not None:
            self._cgroup.thaw()

    async def _end(self) -> None:
        if hasattr(self, "channel"):  # else there was no descriptor left for one
            self.channel.close()
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            if self._cgroup is not None:
                self._cgroup.thaw()
            # PID 1 ends only when every process of its pid namespace is gone (pid_namespaces(7)).
            with anyio.fail_after(END_SECONDS):
                await anyio.wait_readable(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1
        if self._cgroup is not None:
            self._cgroup.remove()
            self._cgroup = None
        self._release()
