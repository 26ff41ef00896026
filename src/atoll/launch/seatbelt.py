"""The launcher `seatbelt` for macOS: the same guest behind a generated sandbox-exec profile.

It has never been run: there was no macOS to run it on. Its profile is tested as text, its paths on
Linux as far as they go. What it cannot do as the Linux launchers do:

- The sandbox sees the machine's own file tree, of which it may read the template's places and the
  system's, and write its own directory. It has no root of its own, no pid namespace, no root user.
- Nothing holds memory, CPU, pids or disk: create() refuses these limits unless they are None.
- macOS has no SOCK_SEQPACKET for unix sockets. The channel is SOCK_DGRAM: packets keep their
  bounds, but the end of the other side is not seen, so two pipes tell it (`seatbelt_entry`).
- A process that left its session and was orphaned may outlive its sandbox. It stays behind the
  profile, with nothing but the sandbox's removed directory to write to.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import anyio
import anyio.to_thread

from atoll.launch import host_terminal
from atoll.launch.alive import Alive, EndsOnce
from atoll.launch.port import ContextPorts, ContextProcess, Listeners
from atoll.launch.seatbelt_profile import Places, profile
from atoll.launch.template_layers import require_lowers
from atoll.model import (
    KilledBy,
    LauncherUnavailable,
    Limits,
    LimitUnavailable,
    Metrics,
    NetworkUnavailable,
    SandboxSpec,
    Template,
    WallUnavailable,
)

PROGRAM = Path("/usr/bin/sandbox-exec")
NOT_HELD = ("memory", "cpu", "pids", "disk", "cpu_time")
"""Limits that no part of macOS holds for a tree of processes."""

READY_SECONDS = 20.0
END_SECONDS = 5.0
_PACKET = 65536
_PACKAGES = Path(__file__).parents[2]
_ENTRY = Path(__file__).with_name("seatbelt_entry.py")
_GUEST = Path(__file__).parents[1] / "guest"


class SeatbeltLauncher:
    """Builds sandboxes with macOS's sandbox-exec.

    Args:
        directory: each sandbox has its own directory in it.
        owner: not used: nothing is made outside of `directory`.

    Raises:
        LauncherUnavailable: this is not macOS, or it has no sandbox-exec.
    """

    name = "seatbelt"
    _directory: Path
    _alive: Alive[SeatbeltSandbox]

    def __init__(self, directory: Path, *, owner: str = "engine") -> None:
        if sys.platform != "darwin":
            raise LauncherUnavailable(
                f"launcher seatbelt works on macOS, not on {sys.platform}",
                hint="on Linux use the launcher namespaces or bubblewrap",
            )
        if not PROGRAM.exists():
            raise LauncherUnavailable(f"launcher seatbelt needs {PROGRAM}, which is not there")
        self._directory = directory
        self._alive = Alive()

    async def prepare(self, template: Template) -> None:
        """Nothing is warmed; the template's places must be there.

        Raises:
            TemplateError: one is not.
        """
        require_lowers(template)

    async def launch(self, spec: SandboxSpec) -> SeatbeltSandbox:
        """See Launcher.launch."""
        refuse_limits(spec.limits)
        await self.prepare(spec.template)
        own = self._directory / spec.id
        sandbox = SeatbeltSandbox(spec, own, lambda: self._alive.discard(sandbox))
        async with self._alive.adding(sandbox):
            await sandbox.start()
        return sandbox

    async def close(self) -> None:
        """See Launcher.close."""
        await self._alive.destroy()


def refuse_limits(limits: Limits) -> None:
    """Raise LimitUnavailable for a limit that is set and would not be held."""
    for name in NOT_HELD:
        if getattr(limits, name) is not None:
            raise LimitUnavailable(
                f"limit {name} cannot be held on macOS", hint=f"pass {name}=None to go without"
            )


def places(spec: SandboxSpec, own: Path) -> Places:
    """What the profile of this sandbox opens, as real paths."""
    lowers = [lower for layer in spec.template.layers for lower in layer.lowers]
    ours = [Path(sys.base_prefix), _GUEST, _ENTRY]
    return Places(
        own=os.path.realpath(own),
        readable=tuple(dict.fromkeys(os.path.realpath(path) for path in (*ours, *lowers))),
        mounted=tuple((os.path.realpath(m.source), m.read_only) for m in spec.mounts),
    )


def command(text: str, channel: int, lifeline: int, word: int) -> list[str]:
    """The command line of one sandbox."""
    python = [os.path.realpath(sys.executable), "-I", "-S", "-B", str(_ENTRY), str(_PACKAGES)]
    return [str(PROGRAM), "-p", text, *python, str(channel), str(lifeline), str(word)]


def channel_pair() -> tuple[socket.socket, socket.socket]:
    """Two ends that keep packets apart; large enough for the channel's largest packet."""
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    for end in pair:
        # A unix datagram is at most as long as the send buffer (macOS: 2,048 bytes by default).
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * _PACKET)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 * _PACKET)
        end.setblocking(False)
    return pair


class SeatbeltSandbox(EndsOnce):
    """See LaunchedSandbox."""

    def __init__(self, spec: SandboxSpec, own: Path, forget: Callable[[], None]) -> None:
        super().__init__(forget)
        self._spec = spec
        self._own = own
        self.channel, self._theirs = channel_pair()
        self._process: subprocess.Popen[bytes] | None = None
        self._lifeline = -1
        self._word = -1

    @property
    def id(self) -> str:
        """The id of its spec."""
        return self._spec.id

    @property
    def pid(self) -> int:
        """The process that sandbox-exec became; -1 before it was started."""
        return self._process.pid if self._process is not None else -1

    async def start(self) -> None:
        """Start sandbox-exec and wait for the guest.

        Raises:
            WallUnavailable: sandbox-exec refused the profile, or the guest did not start.
        """
        for name in ("home", "tmp"):
            (self._own / name).mkdir(parents=True, mode=0o700)
        text = profile(places(self._spec, self._own))
        lifeline, self._lifeline = os.pipe()
        self._word, word = os.pipe()
        fds = (self._theirs.fileno(), lifeline, word)
        try:
            self._process = _spawn(command(text, *fds), fds, self._own)
        finally:
            os.close(lifeline)
            os.close(word)
            self._theirs.close()
        asyncio.get_running_loop().add_reader(self._word, self._guest_gone)
        with anyio.move_on_after(READY_SECONDS) as patience:
            await anyio.wait_readable(self.channel)
        if patience.cancelled_caught or not self.channel.recv(1024, socket.MSG_PEEK):
            raise WallUnavailable("sandbox-exec did not start the guest", sandbox_id=self.id)

    def _guest_gone(self) -> None:
        """Show the end of the guest on the channel, as the end of a SOCK_SEQPACKET peer would."""
        self._stop_watching()
        self.channel.shutdown(socket.SHUT_RDWR)

    def _stop_watching(self) -> None:
        if self._word >= 0:
            asyncio.get_running_loop().remove_reader(self._word)
            os.close(self._word)
            self._word = -1

    async def fork_context(self, ports: ContextPorts, process: ContextProcess) -> bool:
        """There is no zygote."""
        return False

    def open_pty(self, rows: int, cols: int) -> tuple[int, int]:
        """A terminal of the host's: there is no devpts of the sandbox's own."""
        return host_terminal.open_pty(rows, cols)

    async def open_listeners(self) -> Listeners:
        """Its profile closes the network, and nothing there can lead it elsewhere."""
        raise NetworkUnavailable(
            "launcher seatbelt has no network to give", sandbox_id=self.id, hint="leave network out"
        )

    async def connect_inside(self, port: int) -> socket.socket:
        """Its profile closes every port."""
        raise NetworkUnavailable("launcher seatbelt opens no port", sandbox_id=self.id)

    def metrics(self) -> Metrics:
        """Nothing counts a tree of processes there."""
        return Metrics(None, None, None, None, None, None)

    def breach(self) -> KilledBy | None:
        """No such limit is held."""
        return None

    def freeze(self) -> None:
        """Raises LimitUnavailable: nothing can freeze a tree of processes there."""
        raise LimitUnavailable("macOS cannot pause a sandbox", sandbox_id=self.id)

    def thaw(self) -> None:
        """Nothing was frozen."""

    async def _end(self) -> None:
        self._stop_watching()
        self.channel.close()
        self._theirs.close()
        if self._lifeline >= 0:
            os.close(self._lifeline)
        await anyio.to_thread.run_sync(self._remove)

    def _remove(self) -> None:
        if self._process is not None:
            try:
                self._process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        # rm, not shutil.rmtree: it does not recurse, so that deep trees cannot stop it.
        if self._own.exists():
            subprocess.run([shutil.which("rm") or "/bin/rm", "-rf", "--", self._own], check=False)


def _spawn(words: list[str], fds: tuple[int, ...], own: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        words,
        env={"HOME": str(own / "home"), "TMPDIR": str(own / "tmp")},
        cwd=own / "home",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=fds,
        start_new_session=True,
    )
