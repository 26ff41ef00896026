"""One sandbox of the launcher `bubblewrap`: started through the builder, checked, destroyed."""

from __future__ import annotations

import functools
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio

from atoll.launch.bubblewrap_arguments import STAGE, Shape, arguments, bound, layer_sources
from atoll.launch.bubblewrap_workshop import Workshop
from atoll.launch.linux import check
from atoll.launch.linux.cgroups import Cgroups
from atoll.launch.linux.guest_rights import GUEST_CAPABILITIES, MASKED, MASKED_DIRECTORIES
from atoll.launch.linux.identities import USER
from atoll.launch.linux.running import RunningSandbox
from atoll.launch.linux.shard import host_pid
from atoll.launch.linux.slot_store import SlotShape
from atoll.launch.linux.sockets_inside import SocketsInside
from atoll.launch.port import ContextPorts, ContextProcess
from atoll.model import GUEST_DIRECTORY, Mount, SandboxSpec, WallCheckFailed, WallUnavailable

READY_SECONDS = 20.0
_ERROR_BYTES = 4096


@functools.cache
def _masked() -> tuple[str, ...]:
    names = (*MASKED, *MASKED_DIRECTORIES)
    return tuple(name for name in names if Path("/proc", name).exists())


class BubblewrapSandbox(RunningSandbox):
    """A sandbox whose `_pidfd` is its bwrap's: all of it ends with that."""

    def __init__(
        self,
        spec: SandboxSpec,
        workshop: Workshop,
        slot: SlotShape,
        sockets: SocketsInside,
        forget: Callable[[], None],
    ) -> None:
        super().__init__(spec, sockets, forget)
        self._workshop = workshop
        self._slot = slot
        self._part = -1

    async def start(self, cgroups: Cgroups) -> None:
        """Have it built, wait until the guest is ready, and check it.

        Raises:
            LimitUnavailable: a limit cannot be held here.
            WallUnavailable: bwrap or the builder could not build it; the message is theirs.
            WallCheckFailed: what was built is not what was asked for.
        """
        self.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.channel.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.channel.setblocking(False)
        with theirs:
            self._part = self._workshop.ids.take()
            self._cgroup = cgroups.create(self.id, self._slot.left_to_cgroups(self.spec.limits))
            with _Pipes() as pipes:
                await self._build(pipes, theirs.fileno())
                theirs.close()
                await self._await_guest(pipes)
        check.require(self.pid, self._expected(), self.id)

    async def _build(self, pipes: _Pipes, channel: int) -> None:
        assert self._cgroup is not None
        joins = self._cgroup.join_descriptors()
        filters = [_reopened(fd) for fd in self._workshop.filters]
        fds = (channel, *filters, pipes.errors[1], pipes.go[0], *joins)
        try:
            with anyio.CancelScope(shield=True), anyio.fail_after(READY_SECONDS):
                packet, received = await self._workshop.builder.request(self._request(), fds)
                self._pidfd = received[0]
            if not joins:
                self._cgroup.attach(packet["pid"])
            os.write(pipes.go[1], b"g")
        except OSError as error:
            raise WallUnavailable(f"it could not be built: {error}", sandbox_id=self.id) from error
        finally:
            for fd in (*filters, *joins):
                os.close(fd)
            pipes.close_theirs()

    async def _await_guest(self, pipes: _Pipes) -> None:
        with anyio.move_on_after(READY_SECONDS) as patience:
            await anyio.wait_readable(self.channel)
        if patience.cancelled_caught:
            raise WallUnavailable(
                f"its guest was not ready in {READY_SECONDS:g} s: {pipes.errors_text()}",
                sandbox_id=self.id,
            )
        # Looked at, not taken: the packet is the engine's to read.
        first, self.pid = _peek_with_sender(self.channel)
        if not first or b'"failed"' in first:
            reason = (pipes.errors_text() or first.decode(errors="replace")).strip()
            raise WallUnavailable(
                f"bwrap could not build it: {reason or 'it ended without a word'}",
                sandbox_id=self.id,
            )
        try:
            is_child = _parent(self.pid) == host_pid(self._pidfd)
        except (OSError, ValueError) as error:
            reason = f"its guest was gone before it could be checked: {error}"
            raise WallCheckFailed(reason, sandbox_id=self.id) from error
        if not is_child:
            raise WallCheckFailed("its guest is not a child of its bwrap", sandbox_id=self.id)

    def _shape(self) -> Shape:
        spec = self.spec
        root = spec.template.layers[0].lowers
        inside = GUEST_DIRECTORY.lstrip("/")
        return Shape(
            template=spec.template,
            hostname=spec.hostname,
            mounts=spec.mounts,
            guest=self._workshop.runtime.guest,
            guest_lowers=tuple(i for i, lower in enumerate(root) if (lower / inside).is_dir()),
            masked=_masked(),
        )

    def _request(self) -> dict[str, Any]:
        spec, ids, runtime = self.spec, self._workshop.ids, self._workshop.runtime
        root, user = (ids.inside(self._part, number) for number in (0, USER))
        # What lays out the stage is root of the host, or else in the outer user namespace itself.
        outer = ids.host[0] if ids.idmapped else 0
        return {
            "stage": STAGE,
            "lines": ids.lines(self._part),
            "root": root,
            "user": user,
            "owners": {"root": outer + root, "user": outer + user},
            "ping_groups": ids.ping_groups(self._part),
            "processes": self._slot.processes,
            "idmap": ids.idmapped,
            "lowers": [str(p) for layer in spec.template.layers for p in layer.lowers],
            "layers": layer_sources(spec.template),
            "runtime": str(runtime.directory),
            "program": runtime.bwrap,
            "arguments": arguments(self._shape()),
            "mounts": [self._mount(mount) for mount in spec.mounts],
            "disk": self._slot.disk,
            "inodes": self._slot.inodes,
            "shm": self._slot.shm,
        }

    def _mount(self, mount: Mount) -> dict[str, Any]:
        if not mount.read_only and not self._workshop.ids.idmapped:
            raise WallUnavailable(
                f"{mount.source} cannot be handed in writable: the sandbox has no id of yours",
                sandbox_id=self.id,
                hint="mount it read-only and copy results out, or run as root",
            )
        return {"source": str(mount.source), "read_only": mount.read_only}

    def _expected(self) -> check.ExpectedWalls:
        uid_map, gid_map = self._workshop.ids.expected(self._part)
        return check.ExpectedWalls(
            uid_map=uid_map,
            gid_map=gid_map,
            filters=2,
            capabilities=GUEST_CAPABILITIES,
            not_in=check.host_namespaces(),
            bound=bound(self._shape()),
            cgroups=self._cgroup.paths_inside() if self._cgroup else {},
        )

    async def fork_context(self, ports: ContextPorts, process: ContextProcess) -> bool:
        """There is no heavy zygote: contexts are started by exec."""
        return False

    def _release(self) -> None:
        if self._part >= 0:
            self._workshop.ids.give_back(self._part)
            self._part = -1


class _Pipes:
    """errors: standard error of bwrap. go: our word that the cgroup is joined."""

    def __enter__(self) -> _Pipes:
        self.errors, self.go = os.pipe2(os.O_CLOEXEC), os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self.errors[0], False)
        self._open = {*self.errors, *self.go}
        return self

    def __exit__(self, *_: object) -> None:
        for fd in self._open:
            os.close(fd)

    def close_theirs(self) -> None:
        """Close the ends that the builder has got."""
        for fd in (self.errors[1], self.go[0]):
            os.close(fd)
            self._open.discard(fd)

    def errors_text(self) -> str:
        """What the builder or bwrap complained of."""
        try:
            return os.read(self.errors[0], _ERROR_BYTES).decode(errors="replace")
        except BlockingIOError:
            return ""


def _peek_with_sender(channel: socket.socket) -> tuple[bytes, int]:
    """The first packet, left where it is, and its sender's pid as the kernel says it (unix(7))."""
    size = struct.calcsize("3i")
    data, ancillary, _, _ = channel.recvmsg(_ERROR_BYTES, socket.CMSG_SPACE(size), socket.MSG_PEEK)
    # Off again: the packet's reader leaves no room for it.
    channel.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 0)
    for level, kind, body in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
            return data, int(struct.unpack("3i", body[:size])[0])
    return data, -1


def _reopened(fd: int) -> int:
    # A descriptor of its own: bwrap reads from the shared offset on.
    return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)


def _parent(pid: int) -> int:
    stat = Path(f"/proc/{pid}/stat").read_text()
    return int(stat.rpartition(")")[2].split()[1])
