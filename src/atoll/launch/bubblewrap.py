"""The launcher `bubblewrap`: the same guest, behind walls that the tool bwrap builds.

For those who want them built by that tool. Slower than `namespaces`, since each guest is a fresh
interpreter, and without a heavy zygote. What bwrap cannot do is done around it by a small trusted
process (`bubblewrap_builder`): id maps, idmapped lowers, bounded tmpfs, the network namespace, the
cgroup; and the host checks the result as it does for every launcher.
"""

from __future__ import annotations

import sys
from pathlib import Path

import anyio
import anyio.to_thread

from atoll.launch import bubblewrap_runtime
from atoll.launch.alive import Alive
from atoll.launch.bubblewrap_arguments import check_mounts
from atoll.launch.bubblewrap_find import find
from atoll.launch.bubblewrap_sandbox import BubblewrapSandbox
from atoll.launch.bubblewrap_workshop import Workshop
from atoll.launch.linux import walls
from atoll.launch.linux.cgroups import Cgroups
from atoll.launch.linux.slot_store import SlotShape
from atoll.launch.linux.sockets_inside import SocketsInside
from atoll.launch.linux.walls_situation import situation
from atoll.launch.template_layers import require_lowers
from atoll.model import LauncherUnavailable, SandboxSpec, Template, TemplateError


class BubblewrapLauncher:
    """Builds sandboxes with bwrap.

    Args:
        directory: where it may keep files.
        owner: names its cgroups.

    Raises:
        LauncherUnavailable: not Linux, or no bwrap that is new enough.
    """

    name = "bubblewrap"

    def __init__(self, directory: Path, *, owner: str = "engine") -> None:
        if sys.platform != "linux":
            raise LauncherUnavailable(f"launcher bubblewrap works on Linux, not on {sys.platform}")
        self._bwrap = find()
        self._directory = directory
        self._cgroups = Cgroups.detect(owner)
        self._situation = situation(layout=self._cgroups.layout)
        self._workshop: Workshop | None = None
        self._starting = anyio.Lock()
        self._alive: Alive[BubblewrapSandbox] = Alive()
        self._sockets = SocketsInside()

    async def prepare(self, template: Template) -> None:
        """Start the builder and make the guest's runtime; there is no zygote to warm.

        Raises:
            TemplateError: a lower directory of the template is not there.
            WallUnavailable: this account cannot make user namespaces.
        """
        _check_layers(template)
        await self._ready_workshop()

    async def launch(self, spec: SandboxSpec) -> BubblewrapSandbox:
        """See Launcher.launch.

        Raises:
            InvalidPath: a mount's target would lie over a wall.
        """
        walls.require(spec.limits, self._situation)
        _check_layers(spec.template)
        check_mounts(spec.mounts)
        workshop = await self._ready_workshop()
        shape = SlotShape.of(spec, self._cgroups.holds)
        sandbox = BubblewrapSandbox(
            spec, workshop, shape, self._sockets, lambda: self._alive.discard(sandbox)
        )
        async with self._alive.adding(sandbox):
            await sandbox.start(self._cgroups)
        return sandbox

    async def close(self) -> None:
        """See Launcher.close."""
        with anyio.CancelScope(shield=True):
            await self._clear()
            await self._sockets.close()
            self._cgroups.remove()

    async def _clear(self) -> None:
        await self._alive.destroy()
        workshop, self._workshop = self._workshop, None
        if workshop is not None:
            await workshop.close()

    async def _ready_workshop(self) -> Workshop:
        async with self._starting:
            if self._workshop is not None and self._workshop.broken:
                # A builder takes its sandboxes with it: what is left of them goes first.
                with anyio.CancelScope(shield=True):
                    await self._clear()
            if self._workshop is None:
                runtime = await anyio.to_thread.run_sync(
                    bubblewrap_runtime.build, shared_home(self._directory), self._bwrap
                )
                self._workshop = await Workshop.open(runtime)
            return self._workshop


def shared_home(directory: Path) -> Path:
    """Where owners of one data directory share the guest's runtime.

    An owner's own directory is `<data>/owners/<name>/...`; any other is used as it is.
    """
    for parent in directory.parents:
        if parent.name == "owners":
            return parent.parent
    return directory


def _check_layers(template: Template) -> None:
    if not template.layers or template.layers[0].mountpoint != "/":
        raise TemplateError(f"template {template.name!r} has no layer for /")
    require_lowers(template)
