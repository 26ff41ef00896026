"""The port that every launcher implements: what builds the walls, and nothing else.

A launcher never speaks the guest's protocol beyond waiting for readiness, never reads a client's
bytes and never decides a policy. It builds what the spec says, or raises.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import Protocol

from atoll.model import KilledBy, Metrics, SandboxSpec, Template


@dataclass(frozen=True)
class ContextPorts:
    """Descriptors for a context that is forked from the heavy zygote; they stay the caller's.

    Attributes:
        control: the context's end of a stream socket made by the host (its descriptor 3).
        stdout: write end of a pipe made by the host.
        stderr: write end of a pipe made by the host.
    """

    control: int
    stdout: int
    stderr: int


@dataclass(frozen=True)
class ContextProcess:
    """The process of a context that is forked.

    Attributes:
        mark: borne by it and all that it starts, see guest/marks.py.
    """

    user: str
    cwd: str
    env: dict[str, str]
    mark: int


@dataclass(frozen=True)
class Listeners:
    """Sockets that the host made inside of a sandbox's network; they are the caller's.

    The sandbox's connections and questions for names arrive at them, and nothing else leaves it.

    Attributes:
        tcp: listens; where a connection was to go is its SO_ORIGINAL_DST.
        dns_udp: bound: the sandbox's name server, whichever address it asked.
        dns_tcp: listens: the same for questions by TCP.
        addresses: all of the sandbox's own beside loopback; none of them may be dialled for it.
    """

    tcp: int
    dns_udp: int
    dns_tcp: int
    addresses: tuple[str, ...]


class LaunchedSandbox(Protocol):
    """A built and checked sandbox. It exists until `destroy` returns."""

    id: str
    pid: int
    channel: socket.socket
    """SOCK_SEQPACKET, non-blocking; the peer is the guest, to be treated as hostile."""

    async def fork_context(self, ports: ContextPorts, process: ContextProcess) -> bool:
        """Fork a Python context from the heavy zygote into this sandbox.

        Returns False if this launcher or template has no heavy zygote: start one by exec instead.
        Raises: SandboxDied, WallCheckFailed (the moved process was not behind every wall).
        """

    def open_pty(self, rows: int, cols: int) -> tuple[int, int]:
        """A new terminal of the sandbox's own: master (ours, non-blocking), slave (to hand in)."""

    async def open_listeners(self) -> Listeners:
        """Let its network lead to new listeners, and nowhere else; until then it is loopback only.

        Raises: NetworkUnavailable, SandboxDied.
        """

    async def connect_inside(self, port: int) -> socket.socket:
        """A connection (non-blocking) to `port` of its loopback, which the host makes inside.

        Raises: PortRefused (nothing answers there), NetworkUnavailable, SandboxDied.
        """

    def metrics(self) -> Metrics:
        """What it uses now, read from the kernel, never from the guest."""

    def breach(self) -> KilledBy | None:
        """MEMORY or PIDS if the kernel has enforced that limit since the last call; else None."""

    def freeze(self) -> None:
        """Stop every process of it. Raises LimitUnavailable where nothing can freeze."""

    def thaw(self) -> None:
        """Undo `freeze`."""

    async def destroy(self) -> None:
        """Kill every process and remove all that was made for it. May be called twice."""


class Launcher(Protocol):
    """Builds sandboxes of one kind of isolation."""

    name: str

    async def prepare(self, template: Template) -> None:
        """Start the template's zygotes, if not running. Raises TemplateError, WallUnavailable."""

    async def launch(self, spec: SandboxSpec) -> LaunchedSandbox:
        """Build one sandbox and check it from outside before anything is sent to it.

        Raises:
            LimitUnavailable: a limit of the spec cannot be held here.
            WallUnavailable, WallCheckFailed: isolation would be less than promised.
            TemplateError: the template's zygote does not start.
        """

    async def close(self) -> None:
        """Destroy what is left and stop the zygotes."""
