"""The launcher `bubblewrap`: the same guest, behind walls that the tool bwrap builds.

For those who want them built by that tool. Slower than `namespaces`, since each guest is a fresh
interpreter, and without a heavy zygote. What bwrap cannot do is done around it by a small trusted
process (`bubblewrap_builder`): id maps, idmapped lowers, bounded tmpfs, the network namespace, the
cgroup; and the host checks the result as it does for every launcher.
"""

from __future__ import annotations

import functools
import itertools
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import anyio
import anyio.to_thread

from atoll.launch import bubblewrap_ids, bubblewrap_runtime
from atoll.launch.bubblewrap_arguments import check_mounts
from atoll.launch.bubblewrap_find import find
from atoll.launch.bubblewrap_sandbox import BubblewrapSandbox, Workshop
from atoll.launch.linux import seccomp
from atoll.launch.linux.cgroups import Cgroups
from atoll.launch.linux.packet_port import PacketPort
from atoll.model import (
    LauncherUnavailable,
    SandboxSpec,
    Template,
    TemplateError,
    WallUnavailable,
)

START_SECONDS = 30.0
_ENTRY = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from atoll.launch.bubblewrap_builder import main; main()"
)
_SOURCE = str(Path(__file__).parents[2])
_MAP_TOOLS = {"uid": "newuidmap", "gid": "newgidmap"}


class BubblewrapLauncher:
    """Builds sandboxes with bwrap.

    Args:
        directory: where it may keep files.
        owner: names its cgroups.
        subids: files like /etc/subuid and /etc/subgid to look for sub-ids in.

    Raises:
        LauncherUnavailable: not Linux, or no bwrap that is new enough.
    """

    name = "bubblewrap"

    def __init__(
        self,
        directory: Path,
        *,
        owner: str = "engine",
        subids: tuple[Path, Path] = bubblewrap_ids.SUBID_FILES,
    ) -> None:
        if sys.platform != "linux":
            raise LauncherUnavailable(f"launcher bubblewrap works on Linux, not on {sys.platform}")
        self._bwrap = find()
        self._directory = directory
        self._owner = owner
        self._subids = subids
        self._workshop: Workshop | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._starting = anyio.Lock()
        self._alive: set[BubblewrapSandbox] = set()
        self._numbers = itertools.count(1)

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
        _check_layers(spec.template)
        check_mounts(spec.mounts)
        workshop = await self._ready_workshop()
        sandbox = BubblewrapSandbox(spec, workshop, lambda: self._alive.discard(sandbox))
        self._alive.add(sandbox)
        try:
            await sandbox.start()
        except BaseException:
            with anyio.CancelScope(shield=True):
                await sandbox.destroy()
            raise
        return sandbox

    async def close(self) -> None:
        """See Launcher.close."""
        with anyio.CancelScope(shield=True):
            for sandbox in list(self._alive):
                await sandbox.destroy()
            workshop, self._workshop = self._workshop, None
            if workshop is not None:
                workshop.close()
            process, self._process = self._process, None
            if process is not None:
                await anyio.to_thread.run_sync(_end, process)

    async def _ready_workshop(self) -> Workshop:
        async with self._starting:
            if self._process is not None and self._process.poll() is not None:
                # A builder takes its sandboxes with it: what is left of them goes first.
                await self.close()
            if self._workshop is None:
                runtime = await anyio.to_thread.run_sync(
                    bubblewrap_runtime.build, shared_home(self._directory), self._bwrap
                )
                self._workshop = await self._start(runtime)
            return self._workshop

    async def _start(self, runtime: bubblewrap_runtime.Runtime) -> Workshop:
        ids = bubblewrap_ids.plan(self._directory, self._subids)
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        kept = (theirs.fileno(), *([ids.lock] if ids.kind == "root" else []))
        try:
            with theirs:
                self._process = _spawn_builder(theirs.fileno(), kept)
            port = PacketPort(mine, "builder of launcher bubblewrap")
            with anyio.fail_after(START_SECONDS):
                await port.request(ids.outer | {"tools": _map_tools(ids)}, number=0)
            cgroups = Cgroups.detect(self._owner)
        except (OSError, TimeoutError) as error:
            ids.close()
            mine.close()
            raise WallUnavailable(
                f"the namespaces of sandboxes cannot be made: {error}",
                hint="`atoll doctor` says what this machine lacks",
            ) from error
        filters = (_program(seccomp.outer_filter()), _program(seccomp.inner_filter()))
        return Workshop(port, ids, runtime, cgroups, filters)


def shared_home(directory: Path) -> Path:
    """Where owners of one data directory share the guest's runtime.

    An owner's own directory is `<data>/owners/<name>/...`; any other is used as it is.
    """
    for parent in directory.parents:
        if parent.name == "owners":
            return parent.parent
    return directory


@functools.cache
def _interpreter() -> str:
    return os.path.realpath(sys.executable)


def _spawn_builder(channel: int, kept: tuple[int, ...]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [_interpreter(), "-I", "-S", "-c", _ENTRY, _SOURCE, str(channel)],
        env={},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        pass_fds=kept,
        start_new_session=True,
    )


def _map_tools(ids: bubblewrap_ids.Ids) -> dict[str, str]:
    if not ids.outer.get("tool"):
        return {}
    found = {kind: shutil.which(name) for kind, name in _MAP_TOOLS.items()}
    missing = [_MAP_TOOLS[kind] for kind, path in found.items() if path is None]
    if missing:
        raise WallUnavailable(
            f"this account has sub-ids, but not the programs that map them: {', '.join(missing)}",
            hint="apt install uidmap (Fedora: shadow-utils)",
        )
    return {kind: path for kind, path in found.items() if path is not None}


def _program(code: bytes) -> int:
    """A seccomp program as a descriptor that bwrap reads to its end; opened again for each."""
    fd = os.memfd_create("seccomp", os.MFD_CLOEXEC)
    os.write(fd, code)
    return fd


def _check_layers(template: Template) -> None:
    if not template.layers or template.layers[0].mountpoint != "/":
        raise TemplateError(f"template {template.name!r} has no layer for /")
    for layer in template.layers:
        for lower in layer.lowers:
            if not lower.is_dir():
                raise TemplateError(f"template {template.name!r}: {lower} is not a directory")


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
