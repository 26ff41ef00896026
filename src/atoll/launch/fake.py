"""The launcher without walls: it ISOLATES NOTHING. For tests of the engine, and for nothing else.

The real guest runs as an ordinary child of this process, sees the host's files and has the host's
network. It is never chosen automatically.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.lowlevel

from atoll.launch import host_terminal
from atoll.launch.adoption_port import Held
from atoll.launch.alive import EndsOnce
from atoll.launch.port import ContextPorts, ContextProcess, LaunchedSandbox, Listeners
from atoll.model import KilledBy, Metrics, PortRefused, SandboxSpec, Template

_EXIT_SECONDS = 3.0
_GUEST = Path(__file__).parents[1] / "guest" / "main.py"


class FakeLauncher:
    """Starts a guest program without any wall.

    Args:
        directory: a temporary directory of each sandbox is made in it.
        owner: not used; here because every launcher takes it.
        guest: the program to start instead of the real guest; ``--channel FD`` is added.
    """

    name = "fake"

    def __init__(
        self, directory: Path, *, owner: str = "engine", guest: Sequence[str] | None = None
    ) -> None:
        self._directory = directory
        self._guest = guest or (sys.executable, "-I", "-S", str(_GUEST))
        self.sandboxes: list[FakeSandbox] = []
        """Every one that was launched and not destroyed, for tests to look at."""

    async def prepare(self, template: Template) -> None:
        """Nothing is warmed."""

    async def launch(self, spec: SandboxSpec) -> FakeSandbox:
        """Start the guest; no wall is built and none is checked."""
        await anyio.lowlevel.checkpoint()
        return self._start(spec)

    def _start(self, spec: SandboxSpec) -> FakeSandbox:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            ours.setblocking(False)
            home = Path(tempfile.mkdtemp(prefix="fake-", dir=self._directory))
            home.chmod(0o777)
            guest = subprocess.Popen(
                [*self._guest, "--channel", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                cwd="/",
            )
        owned = Guest(guest.pid, os.pidfd_open(guest.pid), guest)
        return self._keep(spec.id, ours, owned, home)

    def _keep(self, id: str, channel: socket.socket, guest: Guest, directory: Path) -> FakeSandbox:
        sandbox = FakeSandbox(id, channel, guest, directory, lambda: self.sandboxes.remove(sandbox))
        self.sandboxes.append(sandbox)
        return sandbox

    def hold(self, sandbox: LaunchedSandbox) -> Held:
        """See Adopts.hold."""
        assert isinstance(sandbox, FakeSandbox)
        state = {"pid": sandbox.pid, "directory": str(sandbox.directory)}
        return Held(state, (sandbox.channel.fileno(), sandbox.pidfd))

    async def adopt(self, spec: SandboxSpec, held: Held) -> FakeSandbox:
        """See Adopts.adopt."""
        await anyio.lowlevel.checkpoint()
        channel, pidfd = held.fds
        directory = Path(held.state["directory"])
        guest = Guest(held.state["pid"], pidfd)
        return self._keep(spec.id, socket.socket(fileno=channel), guest, directory)

    async def settle(self) -> None:
        """Remove the directories of those that nobody adopted."""
        await anyio.lowlevel.checkpoint()
        kept = {sandbox.directory for sandbox in self.sandboxes}
        for left in set(self._directory.glob("fake-*")) - kept:
            shutil.rmtree(left, ignore_errors=True)

    async def close(self) -> None:
        """Destroy what is left."""
        for sandbox in list(self.sandboxes):
            await sandbox.destroy()


@dataclass
class Guest:
    """A guest's process; `child` if it was started here, and so has to be reaped."""

    pid: int
    pidfd: int
    child: subprocess.Popen[bytes] | None = None

    def signal(self, number: signal.Signals) -> None:
        """Signal it, if it lives."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, number)


class FakeSandbox(EndsOnce):
    """One guest without walls. Tests set `usage` and `breached`, which no kernel counts here."""

    def __init__(
        self,
        id: str,
        channel: socket.socket,
        guest: Guest,
        directory: Path,
        forget: Callable[[], None],
    ) -> None:
        super().__init__(forget)
        self.id = id
        self.pid = guest.pid
        self.pidfd = guest.pidfd
        self.channel = channel
        self.directory = directory
        self.usage = Metrics(0.0, 0, 0, 1, 0, None)
        self.breached: KilledBy | None = None
        self.frozen = False
        self._guest = guest

    async def fork_context(self, ports: ContextPorts, process: ContextProcess) -> bool:
        """There is no zygote."""
        return False

    def open_pty(self, rows: int, cols: int) -> tuple[int, int]:
        """A terminal of the host's."""
        return host_terminal.open_pty(rows, cols)

    async def open_listeners(self) -> Listeners:
        """On the host's loopback: nothing is led to them."""
        await anyio.lowlevel.checkpoint()
        streams = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
        questions = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        questions.bind(("127.0.0.1", 0))
        for sock in (*streams, questions):
            sock.setblocking(False)
        tcp, dns_tcp = (sock.detach() for sock in streams)
        return Listeners(tcp, questions.detach(), dns_tcp, ("127.0.0.1",))

    async def connect_inside(self, port: int) -> socket.socket:
        """A connection to the host's loopback."""
        sock = socket.socket()
        sock.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
        except OSError as error:
            sock.close()
            reason = f"nothing answers on port {port}: {error}"
            raise PortRefused(reason, sandbox_id=self.id) from error
        return sock

    def metrics(self) -> Metrics:
        """What the test has set."""
        return self.usage

    def breach(self) -> KilledBy | None:
        """What the test has set, once."""
        found, self.breached = self.breached, None
        return found

    def freeze(self) -> None:
        """Stop the guest; its processes run on."""
        self.frozen = True
        self._guest.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Undo `freeze`."""
        self.frozen = False
        self._guest.signal(signal.SIGCONT)

    async def _end(self) -> None:
        """The guest ends its processes when its channel ends; later it is killed."""
        # A vault may hold the channel open: the end is asked for, and not only closed.
        with suppress(OSError):
            self.channel.send(b'{"n":0,"op":"shutdown","grace":0}')
        self.channel.close()
        self.thaw()
        with anyio.move_on_after(_EXIT_SECONDS):
            await anyio.wait_readable(self.pidfd)
        self._guest.signal(signal.SIGKILL)
        await anyio.wait_readable(self.pidfd)
        if self._guest.child is not None:
            self._guest.child.wait()
        os.close(self.pidfd)
        shutil.rmtree(self.directory, ignore_errors=True)
