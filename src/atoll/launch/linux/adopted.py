"""Sandboxes that a former process of the same owner has made, in shards that outlived it."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable

from atoll.launch.linux.cgroups_cgroup import Cgroup
from atoll.launch.linux.running import RunningSandbox
from atoll.launch.linux.shard import host_pid
from atoll.launch.linux.sockets_inside import SocketsInside
from atoll.launch.port import ContextPorts, ContextProcess
from atoll.model import SandboxDied, SandboxSpec
from atoll.wire.packet_port import PortClosed


class Lifeline:
    """The end of a keeper's control socket: its shard lives while a copy of it is open.

    It is closed with the last adopted sandbox of the shard: nothing new is made there.
    """

    def __init__(self, fd: int, shard: Cgroup) -> None:
        self.fd = fd
        self.shard = shard
        self._users = 0

    def use(self) -> None:
        """One more sandbox hangs on it."""
        self._users += 1

    def release(self) -> None:
        """One sandbox less."""
        self._users -= 1
        if self._users == 0 and self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
            self.shard.kill()
            self.shard.remove()


class AdoptedSandbox(RunningSandbox):
    """All of it goes on but the fork of Python contexts: those are started by exec."""

    def __init__(
        self,
        spec: SandboxSpec,
        lifeline: Lifeline,
        sockets: SocketsInside,
        forget: Callable[[], None],
    ) -> None:
        super().__init__(spec, sockets, forget)
        self._lifeline = lifeline
        lifeline.use()

    def take_over(self, pidfd: int, channel: socket.socket, cgroup: Cgroup) -> None:
        """Own these from now on. Raises SandboxDied: the guest has ended meanwhile."""
        channel.setblocking(False)
        self._pidfd, self.channel, self._cgroup = pidfd, channel, cgroup
        try:
            self.pid = host_pid(pidfd)
        except PortClosed as error:
            raise SandboxDied("its guest has ended", sandbox_id=self.id) from error

    async def fork_context(self, ports: ContextPorts, process: ContextProcess) -> bool:
        """See LaunchedSandbox.fork_context."""
        return False

    def held(self) -> tuple[str, tuple[int, int, int]]:
        """Its shard's name, its guest's pidfd and channel, and the socket its shard lives by."""
        fds = (self._pidfd, self.channel.fileno(), self._lifeline.fd)
        return self._lifeline.shard.name, fds

    def _release(self) -> None:
        self._lifeline.release()
