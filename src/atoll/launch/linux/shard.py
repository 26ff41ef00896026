"""The host's view of one shard: a template's keeper, init, builder and zygotes on its own ids."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import socket
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio

from atoll.launch.linux import seccomp, sub_ids
from atoll.launch.linux.cgroups import Cgroups
from atoll.launch.linux.cgroups_cgroup import Cgroup
from atoll.launch.linux.guest_rights import OWN_DIRECTORIES
from atoll.launch.linux.identities import ZYGOTE_PART, Identities, plan
from atoll.launch.linux.slot_store import Slot, SlotShape, SlotStore
from atoll.model import Limits, Template, TemplateError, WallUnavailable
from atoll.wire import packets
from atoll.wire.packet_port import PacketPort, PortClosed, Reply

START_SECONDS = 60.0
PRELOAD_SECONDS = 120.0
FORK_SECONDS = 20.0
_ZYGOTE_LIMITS = Limits(
    memory="4G", cpu=2.0, pids=256, open_files=None, file_size=None, disk=None, output=None
)
_ZYGOTE_SHAPE = SlotShape(disk=64 << 20, inodes=16384, shm=16 << 20)
# The packages' doors would import the host's libraries into every guest: they stay shut.
_ENTRY = """
import sys, types
for name in ("atoll", "atoll.launch", "atoll.launch.linux"):
    package = sys.modules[name] = types.ModuleType(name)
    package.__path__ = [sys.argv[1] + "/" + name.replace(".", "/")]
from atoll.launch.linux.keeper import main
main()
"""


class Shard:
    """Started by `start`; every process of it dies when `close` drops the control socket."""

    def __init__(self, template: Template, data_dir: Path, cgroups: Cgroups, name: str) -> None:
        self.template = template
        self.ids: Identities = plan()
        self._cgroups = cgroups
        self.name = name
        self._stage = Path(tempfile.mkdtemp(prefix="stage-", dir=data_dir))
        self._cgroup: Cgroup | None = None
        self._control: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._ports: dict[str, PacketPort] = {}
        self._ready: asyncio.Future[Reply] | None = None
        self._errors = -1
        self._pidfds: list[int] = []
        self._inner = base64.b64encode(seccomp.inner_filter()).decode()

    async def start(self) -> None:
        """Start all processes; the heavy zygote goes on preloading in the background.

        Raises:
            WallUnavailable: the kernel refused a part of the shard.
        """
        ends = {
            name: socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            for name in ("CONTROL", "BUILDER", "LIGHT", "HEAVY")
        }
        self._control = ends["CONTROL"][0]
        self._spawn_keeper({name: pair[1] for name, pair in ends.items()})
        for name in ("BUILDER", "LIGHT", "HEAVY"):
            self._ports[name] = PacketPort(ends[name][0], f"{name.lower()} of {self.template.name}")
        self.slots = SlotStore(self._ports["BUILDER"], self.ids)
        if self.ids.kind != "root":
            await self._map_account()
        packets.send(self._control, self._config())
        self._pidfds = (await self._answer())[1]
        self._enter_cgroup()
        if self.template.python:
            await self._start_heavy()

    @property
    def lifeline(self) -> int:
        """The socket by whose end the keeper knows that nobody needs the shard any more."""
        assert self._control is not None
        return self._control.fileno()

    @property
    def serving(self) -> bool:
        """True if sandboxes can be made in it: ids are left and its processes live."""
        parts = ["BUILDER", "LIGHT"] + (["HEAVY"] if self.template.python else [])
        return not self.ids.exhausted and not any(self._ports[part].closed for part in parts)

    def _spawn_keeper(self, sockets: dict[str, socket.socket]) -> None:
        source = str(Path(__file__).parents[3])
        environment = {f"ATOLL_{name}": str(sock.fileno()) for name, sock in sockets.items()}
        if self.ids.kind != "root":
            environment["ATOLL_ROOTLESS"] = "1"
        kept = [sock.fileno() for sock in sockets.values()]
        if self.ids.lock >= 0:
            kept.append(self.ids.lock)  # the ids stay held for as long as a process of it lives
        try:
            self._process = subprocess.Popen(
                [os.path.realpath(sys.executable), "-I", "-S", "-c", _ENTRY, source],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # guests inherit it; what went wrong comes in packets
                pass_fds=kept,
                start_new_session=True,
            )
        finally:
            for sock in sockets.values():
                sock.close()

    async def _answer(self) -> Reply:
        assert self._control is not None
        try:
            with anyio.fail_after(START_SECONDS):
                await anyio.wait_readable(self._control)
            answer, fds = packets.receive(self._control)
        except (OSError, TimeoutError) as error:
            answer, fds = {"error": str(error) or "it did not answer"}, []
        if answer is None or "error" in answer:
            reason = (answer or {}).get("error", "its keeper died")
            raise WallUnavailable(
                f"template {self.template.name!r} cannot be walled in: {reason}",
                hint="run `atoll doctor`: it names the cause and the fix",
            )
        return answer, fds

    async def _map_account(self) -> None:
        """Give the keeper's user namespace this account's ids (user_namespaces(7))."""
        assert self._control is not None
        await self._answer()
        pid = self._process.pid if self._process is not None else 0
        await sub_ids.map_account(pid, self.ids.host, self.ids.count)
        packets.send(self._control, {"mapped": True})

    def _config(self) -> packets.Packet:
        template, ids = self.template, self.ids
        return {
            "stage": str(self._stage),
            "first_id": ids.host[0] if ids.idmapped else 1,
            "id_count": ids.count,
            "idmapped": ids.idmapped,
            "lowers": [str(lower) for layer in template.layers for lower in layer.lowers],
            "layers": self._layers(),
            "outer_filter": base64.b64encode(seccomp.outer_filter()).decode(),
            "inner_filter": self._inner,
            "heavy": template.python is not None,
            "python": template.python,
            "env": template.env,
        }

    def _layers(self) -> list[dict[str, Any]]:
        layers, count = [], 0
        for layer in self.template.layers:
            indexes = list(range(count, count + len(layer.lowers)))
            own = [] if self.ids.idmapped or layer.mountpoint != "/" else list(OWN_DIRECTORIES)
            layers.append({"mountpoint": layer.mountpoint, "lowers": indexes, "own": own})
            count += len(layer.lowers)
        return layers

    def _enter_cgroup(self) -> None:
        unheld = {"memory", "cpu", "pids"} - self._cgroups.holds
        limits = replace(_ZYGOTE_LIMITS, **dict.fromkeys(unheld))
        self._cgroup = self._cgroups.create(self.name, limits)
        for fd in self._pidfds:
            self._cgroup.attach(host_pid(fd))

    async def _start_heavy(self) -> None:
        try:
            slot = await self.slots.build(ZYGOTE_PART, _ZYGOTE_SHAPE)
        except OSError as error:
            raise WallUnavailable(f"the zygote's root could not be built: {error}") from error
        self._errors, theirs = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        port = self._ports["HEAVY"]
        # The starter's go and the zygote's configuration are two packets of one exchange.
        try:
            port.post({"uid": self.ids.inside(ZYGOTE_PART, 0)}, [*slot.fds, theirs])
        finally:
            os.close(theirs)
            slot.close()
        configuration = {"preload": list(self.template.preload), "inner_filter": self._inner}
        self._ready = port.request(configuration, number=0)
        self._ready.add_done_callback(lambda future: future.cancelled() or future.exception())

    async def heavy_ready(self) -> None:
        """Wait until the heavy zygote has preloaded. Raises TemplateError."""
        assert self._ready is not None
        if self._ready.done() and not self._ready.exception():
            return
        try:
            with anyio.fail_after(PRELOAD_SECONDS):
                await asyncio.shield(self._ready)
        except (OSError, TimeoutError) as error:
            raise TemplateError(
                f"the zygote of template {self.template.name!r} did not start: {error}\n"
                f"{self._last_words()}"
            ) from error

    def _last_words(self) -> str:
        try:
            return os.read(self._errors, 1 << 16).decode(errors="replace")[-4000:]
        except OSError:
            return ""

    def fork_guest(
        self, slot: Slot, channel: int, hostname: str, processes: int
    ) -> asyncio.Future[Reply]:
        """Ask for a guest in `slot`; the reply holds its pidfd.

        It waits for go on `channel`, which brings the descriptors by which it joins its cgroup.
        """
        packet = {"hostname": hostname, "processes": processes}
        return self._ports["LIGHT"].request(packet, [*slot.fds, channel])

    async def fork_context(self, request: packets.Packet, fds: list[int]) -> int:
        """Fork a context (see guest/zygote.py for the descriptors). Returns its pidfd.

        Raises:
            PortClosed: the heavy zygote has ended since it was ready. TemplateError: it never was.
        """
        await self.heavy_ready()
        with anyio.fail_after(FORK_SECONDS):
            _, received = await self._ports["HEAVY"].request(request, fds)
        return received[0]

    async def close(self) -> None:
        """End every process of the shard, and with them every sandbox that is left in it."""
        if hasattr(self, "slots"):
            self.slots.drop_spares()
        for port in self._ports.values():
            port.close()
        if self._control is not None:
            self._control.close()
        if self._process is not None:
            await anyio.to_thread.run_sync(_stop_keeper, self._process)
            self._process = None
        for fd in (*self._pidfds, *([self._errors] if self._errors >= 0 else [])):
            os.close(fd)
        self._pidfds, self._errors = [], -1
        if self._cgroup is not None:
            self._cgroup.kill()
            self._cgroup.remove()
            self._cgroup = None
        self.ids.close()
        with contextlib.suppress(OSError):
            self._stage.rmdir()  # empty here: what is mounted on it is the keeper's to see


def _stop_keeper(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def host_pid(pidfd: int) -> int:
    """The process id in the host's namespace of a pidfd (pidfd_open(2), /proc/self/fdinfo)."""
    fd = os.open(f"/proc/self/fdinfo/{pidfd}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        text = os.read(fd, 4096).decode()
    finally:
        os.close(fd)
    pid = int(text.split("Pid:", 1)[1].split(None, 1)[0])
    if pid <= 0:
        raise PortClosed("the process is gone")
    return pid
