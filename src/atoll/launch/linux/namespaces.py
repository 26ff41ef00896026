"""The launcher `namespaces`: sandboxes forked into prepared namespaces. The default on Linux."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
from pathlib import Path

import anyio

from atoll.launch.adoption_port import Held
from atoll.launch.alive import Alive
from atoll.launch.linux import walls
from atoll.launch.linux.adopted import AdoptedSandbox, Lifeline
from atoll.launch.linux.cgroups import Cgroups
from atoll.launch.linux.forked import ForkedSandbox
from atoll.launch.linux.running import RunningSandbox
from atoll.launch.linux.shard import Shard
from atoll.launch.linux.slot_store import SlotShape
from atoll.launch.linux.sockets_inside import SocketsInside
from atoll.launch.linux.walls_situation import situation
from atoll.launch.port import LaunchedSandbox
from atoll.launch.template_layers import require_lowers
from atoll.model import InvalidArgument, SandboxSpec, Template, WallUnavailable
from atoll.wire.packet_port import PortClosed

_ATTEMPTS = 3


class NamespacesLauncher:
    """Builds sandboxes with the kernel's namespaces, cgroups and seccomp, and nothing else."""

    name = "namespaces"

    def __init__(
        self, data_dir: Path, *, owner: str = "engine", cgroups: Cgroups | None = None
    ) -> None:
        self._data_dir = data_dir
        self._cgroups = cgroups or Cgroups.detect(owner)
        self._situation = situation(layout=self._cgroups.layout)
        self._shards: dict[str, list[Shard]] = {}
        self._starting: dict[str, anyio.Lock] = {}
        self._alive: Alive[RunningSandbox] = Alive()
        self._lifelines: dict[int, Lifeline] = {}
        self._sockets = SocketsInside()

    async def prepare(self, template: Template) -> None:
        """See Launcher.prepare."""
        await self._shard(template)

    async def _shard(self, template: Template) -> Shard:
        shards = self._shards.setdefault(template.name, [])
        async with self._starting.setdefault(template.name, anyio.Lock()):
            for shard in shards:
                if shard.serving and shard.template == template:
                    return shard
            require_lowers(template)
            name = f"zygotes-{secrets.token_hex(4)}"
            shard = Shard(template, self._data_dir, self._cgroups, name)
            try:
                await shard.start()
            except BaseException:
                with anyio.CancelScope(shield=True):
                    await shard.close()
                raise
            shards.append(shard)
            return shard

    async def launch(self, spec: SandboxSpec) -> ForkedSandbox:
        """See Launcher.launch."""
        walls.require(spec.limits, self._situation)
        for _ in range(_ATTEMPTS):
            # A part of the shard may have died unseen; then there is a new shard to try.
            with contextlib.suppress(PortClosed):
                return await self._launch(spec)
        raise WallUnavailable(
            f"the zygotes of template {spec.template.name!r} end again and again",
            hint="run `atoll doctor`; the kernel's log may say what kills them",
        )

    async def _launch(self, spec: SandboxSpec) -> ForkedSandbox:
        shard = await self._shard(spec.template)
        shape = SlotShape.of(spec, self._cgroups.holds)
        slot = await shard.slots.take(shape)
        sandbox = ForkedSandbox(
            spec, shard, slot, shape, self._sockets, lambda: self._alive.discard(sandbox)
        )
        async with self._alive.adding(sandbox):
            await sandbox.start(self._cgroups)
        return sandbox

    async def close(self) -> None:
        """See Launcher.close."""
        with anyio.CancelScope(shield=True):
            await self._alive.destroy()
            for shards in self._shards.values():
                for shard in shards:
                    await shard.close()
            self._shards.clear()
            await self._sockets.close()
            self._cgroups.remove()

    def hold(self, sandbox: LaunchedSandbox) -> Held:
        """See Adopts.hold."""
        if not isinstance(sandbox, ForkedSandbox | AdoptedSandbox):
            raise InvalidArgument("this sandbox is not one of the launcher namespaces")
        shard, fds = sandbox.held()
        # The inode tells which sandboxes share a lifeline after they were handed over one by one.
        return Held({"lifeline": os.fstat(fds[2]).st_ino, "shard": shard}, fds)

    async def adopt(self, spec: SandboxSpec, held: Held) -> AdoptedSandbox:
        """See Adopts.adopt."""
        pidfd, channel, lifeline = held.fds
        key = int(held.state["lifeline"])
        if key in self._lifelines:
            os.close(lifeline)
        else:
            shard = self._cgroups.open(str(held.state["shard"]))
            self._lifelines[key] = Lifeline(lifeline, shard)
        line = self._lifelines[key]
        sandbox = AdoptedSandbox(spec, line, self._sockets, lambda: self._alive.discard(sandbox))
        async with self._alive.adding(sandbox):
            sandbox.take_over(pidfd, socket.socket(fileno=channel), self._cgroups.open(spec.id))
        return sandbox

    async def settle(self) -> None:
        """See Adopts.settle."""
        kept = {sandbox.id for sandbox in self._alive}
        kept |= {shard.name for shards in self._shards.values() for shard in shards}
        kept |= {line.shard.name for line in self._lifelines.values() if line.fd >= 0}
        for name in set(self._cgroups.names()) - kept:
            cgroup = self._cgroups.open(name)
            await anyio.to_thread.run_sync(cgroup.kill)
            cgroup.remove()
