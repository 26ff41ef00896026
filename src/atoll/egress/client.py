"""The engine's way to the egress proxy, which is a process of its own."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import anyio
import anyio.to_thread

from atoll.egress import program
from atoll.egress.authority import Authority
from atoll.egress.resolver import host_names, host_servers
from atoll.model import (
    ConnectionRecord,
    InvalidArgument,
    NetworkPolicy,
    NetworkReport,
    NetworkUnavailable,
    SandboxNotFound,
)
from atoll.wire.packet_port import PacketPort, PortClosed

_START_SECONDS = 20.0
_ORDER_SECONDS = 20.0
_END_SECONDS = 5.0
_PACKAGES = ("atoll", "anyio", "idna", "dns", "cryptography", "cffi", "typing_extensions")


class Listeners(Protocol):
    """Descriptors of sockets that the host made inside a sandbox's network namespace."""

    @property
    def tcp(self) -> int:
        """Listens for every redirected TCP connection."""

    @property
    def dns_udp(self) -> int:
        """Bound for name questions."""

    @property
    def dns_tcp(self) -> int:
        """Listens for name questions."""


class Egress:
    """One proxy process for all sandboxes of an engine."""

    def __init__(
        self, data_dir: Path, *, resolv_conf: Path | None = None, hosts: Path | None = None
    ) -> None:
        """Nothing is started yet.

        Args:
            data_dir: the certificate authority is kept below it.
            resolv_conf: the host's name servers; /etc/resolv.conf if None.
            hosts: the host's own names; /etc/hosts if None.
        """
        self._directory = data_dir / "egress"
        self._resolv_conf = resolv_conf or Path("/etc/resolv.conf")
        self._hosts = hosts or Path("/etc/hosts")
        self._child: subprocess.Popen[bytes] | None = None
        self._port: PacketPort | None = None
        self._known: set[str] = set()

    @property
    def pid(self) -> int | None:
        """The proxy's process, if one runs."""
        return self._child.pid if self._child else None

    @property
    def alive(self) -> bool:
        """True while the proxy answers."""
        return self._port is not None and not self._port.closed

    async def start(self) -> None:
        """Start the process. Raises NetworkUnavailable."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                self._child = await anyio.to_thread.run_sync(_spawn, theirs.fileno())
        except BaseException:
            ours.close()
            raise
        self._port = PacketPort(ours, "egress proxy")
        try:
            with anyio.fail_after(_START_SECONDS):
                await self._port.request({"op": "hello"})
        except (OSError, TimeoutError) as error:
            await self.close()
            raise NetworkUnavailable(
                f"the egress proxy does not start: {error}",
                hint="its message on standard error says more",
            ) from error
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self.close()
            raise

    async def close(self) -> None:
        """End the process with all connections. May be called twice."""
        port, self._port = self._port, None
        child, self._child = self._child, None
        self._known.clear()
        if port is not None:
            port.close()
        if child is not None:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(_end, child)

    async def add(
        self,
        sandbox_id: str,
        listeners: Listeners,
        policy: NetworkPolicy,
        own_addresses: Iterable[str],
    ) -> None:
        """Serve a sandbox from now on. The descriptors stay the caller's.

        Args:
            sandbox_id: its id.
            listeners: made inside its network namespace by the host.
            policy: what its connections may reach.
            own_addresses: the addresses inside, the listeners' too; never dialled.

        Raises:
            NetworkUnavailable: the proxy is gone.
            InvalidArgument: the policy is too long.
        """
        order = {
            "op": "add",
            "own": list(own_addresses),
            "servers": host_servers(await _read(self._resolv_conf)),
            "names": host_names(await _read(self._hosts)),
        }
        fds = (listeners.tcp, listeners.dns_udp, listeners.dns_tcp)
        await self._order(sandbox_id, order | await self._words(policy), fds)
        self._known.add(sandbox_id)

    async def update(self, sandbox_id: str, policy: NetworkPolicy) -> int:
        """Replace a sandbox's policy; how many connections that cut.

        Raises:
            SandboxNotFound, NetworkUnavailable, InvalidArgument.
        """
        self._look_up(sandbox_id)
        order = {"op": "update"} | await self._words(policy)
        return int((await self._order(sandbox_id, order))["cut"])

    async def report(self, sandbox_id: str) -> NetworkReport:
        """What a sandbox has done so far. Raises SandboxNotFound, NetworkUnavailable."""
        self._look_up(sandbox_id)
        return _report((await self._order(sandbox_id, {"op": "report"}))["report"])

    async def remove(self, sandbox_id: str) -> NetworkReport | None:
        """Cut a sandbox off; its last report, None if it was not served. Never raises."""
        if sandbox_id not in self._known:
            return None
        self._known.discard(sandbox_id)
        with contextlib.suppress(NetworkUnavailable):  # then its connections are gone as well
            answer = await self._order(sandbox_id, {"op": "remove"})
            return _report(answer["report"]) if answer["report"] else None
        return None

    async def authority_certificate(self) -> str:
        """PEM of the authority that a sandbox with header rules has to trust.

        Raises:
            NetworkUnavailable: it cannot be read or made.
        """
        return (await self._authority()).certificate

    async def _authority(self) -> Authority:
        try:
            return await anyio.to_thread.run_sync(Authority.load_or_make, self._directory)
        except (OSError, ValueError) as error:
            raise NetworkUnavailable(
                f"the certificate authority in {self._directory} cannot be used: {error}",
                hint="remove the directory to have another one made",
            ) from error

    async def _words(self, policy: NetworkPolicy) -> dict[str, Any]:
        """A policy and what it takes to hold it."""
        authority = asdict(await self._authority()) if policy.rules else None
        return {"policy": policy.to_mapping(), "authority": authority}

    def _look_up(self, sandbox_id: str) -> None:
        if sandbox_id not in self._known:
            raise SandboxNotFound(
                "this sandbox has no network beyond its own loopback",
                sandbox_id=sandbox_id,
                hint="create it with network=True or a NetworkPolicy",
            )

    async def _order(
        self, sandbox_id: str, order: dict[str, Any], fds: tuple[int, ...] = ()
    ) -> dict[str, Any]:
        if self._port is None:
            raise NetworkUnavailable("the egress proxy is not running", sandbox_id=sandbox_id)
        try:
            with anyio.fail_after(_ORDER_SECONDS):
                answer, _ = await self._port.request(order | {"id": sandbox_id}, fds)
        except ValueError as error:
            raise InvalidArgument(
                f"the network policy is too long: {error}", sandbox_id=sandbox_id
            ) from error
        except PortClosed as error:
            raise NetworkUnavailable(
                "the egress proxy has ended; nothing leaves the sandbox any more",
                sandbox_id=sandbox_id,
                hint="create the sandbox again",
            ) from error
        except OSError as error:  # TimeoutError too
            raise NetworkUnavailable(
                f"the egress proxy refuses: {error}", sandbox_id=sandbox_id
            ) from error
        return answer


def _spawn(control: int) -> subprocess.Popen[bytes]:
    words = [str(control), *_package_directories()]
    return subprocess.Popen(
        [sys.executable, "-I", "-S", program.__file__, *words],
        pass_fds=[control],
        env={},
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        # Its own session: what interrupts the engine's terminal lets the engine end it.
        start_new_session=True,
    )


def _package_directories() -> list[str]:
    found = []
    for name in _PACKAGES:
        spec = find_spec(name)
        if spec is None or spec.origin is None:
            continue
        # A package's directory lies in what is wanted; a module's file does so itself.
        package = spec.submodule_search_locations is not None
        file = Path(spec.origin)
        found.append(str(file.parent.parent if package else file.parent))
    return list(dict.fromkeys(found))


def _end(child: subprocess.Popen[bytes]) -> None:
    try:
        child.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


async def _read(path: Path) -> str:
    """A file of the host's, or nothing if there is none."""
    try:
        return await anyio.Path(path).read_text()
    except (OSError, UnicodeDecodeError):
        return ""


def _report(told: dict[str, Any]) -> NetworkReport:
    log = tuple(ConnectionRecord(**record) for record in told.pop("log"))
    return NetworkReport(**told, log=log)
