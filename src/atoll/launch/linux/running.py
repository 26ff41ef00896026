"""A sandbox that runs in namespaces of ours, whichever process made it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from abc import abstractmethod
from collections.abc import Callable, Iterator

import anyio

from atoll.launch.alive import EndsOnce
from atoll.launch.linux import guest_root, terminal
from atoll.launch.linux.cgroups_cgroup import Cgroup
from atoll.launch.linux.shard import host_pid
from atoll.launch.linux.sockets_inside import SocketsInside
from atoll.launch.port import ContextPorts, ContextProcess, Listeners
from atoll.model import KilledBy, Metrics, SandboxDied, SandboxSpec
from atoll.wire.packet_port import PortClosed

END_SECONDS = 10.0


class RunningSandbox(EndsOnce):
    """What its guest's pidfd, its channel and its cgroup are enough for."""

    def __init__(
        self, spec: SandboxSpec, sockets: SocketsInside, forget: Callable[[], None]
    ) -> None:
        super().__init__(forget)
        self.spec = spec
        self._sockets = sockets
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

    async def open_listeners(self) -> Listeners:
        """See LaunchedSandbox.open_listeners."""
        with self._network() as network:
            return await self._sockets.listeners(network, self.id)

    async def connect_inside(self, port: int) -> socket.socket:
        """See LaunchedSandbox.connect_inside."""
        with self._network() as network:
            return await self._sockets.connection(network, port, self.id)

    @contextlib.contextmanager
    def _network(self) -> Iterator[int]:
        """Its network namespace, as a descriptor."""
        try:
            if self._gone:
                raise FileNotFoundError
            fd = os.open(f"/proc/{self.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise SandboxDied("the sandbox is gone", sandbox_id=self.id) from None
        try:
            host_pid(self._pidfd)  # alive after the number was used: it was nobody else's
            yield fd
        except PortClosed as error:
            raise SandboxDied("the sandbox is gone", sandbox_id=self.id) from error
        finally:
            os.close(fd)

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
