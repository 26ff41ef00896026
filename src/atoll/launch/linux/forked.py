"""Forks one sandbox into a slot, and contexts into it; looks at each from outside."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable
from dataclasses import asdict, replace

import anyio
import anyio.to_thread

from atoll.launch.linux import check
from atoll.launch.linux.cgroups import Cgroups
from atoll.launch.linux.cgroups_cgroup import Cgroup
from atoll.launch.linux.guest_rights import GUEST_CAPABILITIES, ROOT_CAPABILITIES
from atoll.launch.linux.running import RunningSandbox
from atoll.launch.linux.shard import FORK_SECONDS, Shard, host_pid
from atoll.launch.linux.slot_store import Slot, SlotShape
from atoll.launch.linux.sockets_inside import SocketsInside
from atoll.launch.port import ContextPorts, ContextProcess
from atoll.model import SandboxDied, SandboxSpec, WallCheckFailed
from atoll.wire.packet_port import PortClosed

READY_SECONDS = 20.0
_CONTEXT_NAMESPACES = ("pid", "mnt", "net", "ipc", "uts", "cgroup", "user")
"""In the order in which the heavy zygote enters them (guest/zygote.py)."""


class ForkedSandbox(RunningSandbox):
    """A sandbox that this process's shard has forked into a slot."""

    def __init__(
        self,
        spec: SandboxSpec,
        shard: Shard,
        slot: Slot,
        shape: SlotShape,
        sockets: SocketsInside,
        forget: Callable[[], None],
    ) -> None:
        super().__init__(spec, sockets, forget)
        self._shard = shard
        self._slot = slot
        self._shape = shape
        self._namespaces: dict[str, str] = {}

    async def start(self, cgroups: Cgroups) -> None:
        """Fork the guest, put it into its cgroup, wait until it is ready, and check it."""
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        mine.setblocking(False)
        self.channel = mine
        limits = self._shape.left_to_cgroups(self.spec.limits)
        with theirs, contextlib.ExitStack() as opened:
            entrance: tuple[int, ...] = ()
            if cgroups.clone_root is not None:
                self._cgroup = cgroups.create(self.id, limits)
                entrance = self._shard.entrance(self.id)
            for fd in entrance:
                opened.callback(os.close, fd)
            forking = self._shard.fork_guest(
                self._slot, theirs.fileno(), self.spec.hostname, self._shape.processes, entrance
            )
        try:
            # Made while the zygote forks: the guest waits for it before it goes on.
            cgroup = self._cgroup = self._cgroup or cgroups.create(self.id, limits)
            joins = cgroup.join_descriptors()
            if joins:
                self._let_go_on(joins)
        finally:
            with anyio.CancelScope(shield=True), anyio.fail_after(FORK_SECONDS):
                answer, received = await forking
                self._pidfd = received[0]
                self.pid = host_pid(self._pidfd)
        if not joins:
            if not answer.get("placed"):
                await _attach(cgroup, self.pid)
            self._let_go_on(())
        with anyio.fail_after(READY_SECONDS):
            await anyio.wait_readable(mine)
        # Looked at, not taken: the packet is the engine's to read.
        first = mine.recv(1024, socket.MSG_PEEK)
        if not first or b'"failed"' in first:
            raise WallCheckFailed(
                f"the guest could not be walled in: {first.decode(errors='replace')}",
                sandbox_id=self.id,
            )
        check.require(self.pid, self._expected(GUEST_CAPABILITIES), self.id)
        self._namespaces = check.namespaces_of(self.pid)
        self._slot.close()

    def _let_go_on(self, joins: tuple[int, ...]) -> None:
        try:
            # One that has ended by now has said why: that is read next.
            with contextlib.suppress(ConnectionError):
                socket.send_fds(self.channel, [b"go"], joins)
        finally:
            for fd in joins:
                os.close(fd)

    def _expected(self, capabilities: int) -> check.ExpectedWalls:
        uid_map, gid_map = self._shard.ids.expected(self._slot.part)
        return check.ExpectedWalls(
            uid_map=uid_map,
            gid_map=gid_map,
            filters=2,
            capabilities=capabilities,
            not_in=check.host_namespaces(),
            filesystems=check.PSEUDO_FILESYSTEMS | {"devtmpfs"},
            bound={mount.target: mount.read_only for mount in self.spec.mounts},
            cgroups=self._cgroup.paths_inside() if self._cgroup else {},
        )

    async def fork_context(self, ports: ContextPorts, process: ContextProcess) -> bool:
        """See LaunchedSandbox.fork_context."""
        if self.spec.template.python is None or self._gone:
            return False
        fds = [
            os.open(f"/proc/{self.pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC)
            for kind in _CONTEXT_NAMESPACES
        ]
        limits = self.spec.limits
        rlimits = {
            name: value
            for name, value in (
                ("RLIMIT_NOFILE", limits.open_files),
                ("RLIMIT_FSIZE", limits.bytes_of("file_size")),
                ("RLIMIT_CORE", 0),
                ("RLIMIT_NPROC", self._shape.processes or None),
            )
            if value is not None
        }
        request = {**asdict(process), "rlimits": rlimits}
        gate, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        gate.setblocking(False)
        joins = self._cgroup.join_descriptors() if self._cgroup is not None else ()
        passed = [*fds, ports.control, ports.stdout, ports.stderr, theirs.fileno(), *joins]
        pidfd = -1
        try:
            pidfd = await self._shard.fork_context(request, passed)
            await self._let_in(gate, host_pid(pidfd), process.user, bool(joins))
        except PortClosed:
            return False  # the zygote is gone; what it forked lives on
        finally:
            gate.close()
            theirs.close()
            for fd in (*fds, *joins, *([pidfd] if pidfd >= 0 else [])):
                os.close(fd)
        return True

    async def _let_in(self, gate: socket.socket, pid: int, user: str, joined: bool) -> None:
        """Charge a moved context to the sandbox, let it take its place, and check it."""
        if self._cgroup is None:
            raise SandboxDied("the sandbox is gone", sandbox_id=self.id)
        if not joined:
            await _attach(self._cgroup, pid)
            gate.send(b"go")
        with anyio.fail_after(READY_SECONDS):
            await anyio.wait_readable(gate)
        answer = gate.recv(1000)
        if answer != b"in":
            raise WallCheckFailed(
                f"a context could not be moved in: {answer.decode(errors='replace')}",
                sandbox_id=self.id,
            )
        capabilities = ROOT_CAPABILITIES if user == "root" else 0
        # The zygote's code is the template's: it is not believed to have entered anything.
        walls = replace(self._expected(capabilities), in_namespaces=self._namespaces)
        check.require(pid, walls, self.id)

    def held(self) -> tuple[str, tuple[int, int, int]]:
        """Its shard's name, its guest's pidfd and channel, and the socket its shard lives by."""
        return self._shard.name, (self._pidfd, self.channel.fileno(), self._shard.lifeline)

    def _release(self) -> None:
        self._slot.close()
        self._shard.slots.give_back(self._slot.part)


async def _attach(cgroup: Cgroup, pid: int) -> None:
    """Move a process in without keeping anybody else waiting, as this may take 20 ms."""
    if cgroup.paths:
        await anyio.to_thread.run_sync(cgroup.attach, pid)
