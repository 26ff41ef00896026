"""All that leaves one sandbox: its listeners, its name server, its connections, its figures."""

from __future__ import annotations

import socket
import struct
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address

import anyio
import anyio.abc
import anyio.lowlevel

from atoll.egress.addresses import Address, plain
from atoll.egress.authority import Issuer
from atoll.egress.connection import Connection, accepted
from atoll.egress.decision import ByName, Rules
from atoll.egress.dns_server import DnsServer, accept
from atoll.egress.meter import Meter
from atoll.egress.relay import Pipes
from atoll.egress.resolver import Resolver, parse_server
from atoll.egress.streams import reset
from atoll.egress.synthetic import SyntheticNames
from atoll.model import ConnectionRecord, NetworkPolicy, NetworkReport

LOG_LENGTH = 128
_SOL_IPV6 = 41
_ORIGINAL_DESTINATION = 80

FindDestination = Callable[[socket.socket], tuple[Address, int]]


def original_destination(sock: socket.socket) -> tuple[Address, int]:
    """Where the client of a redirected connection wanted to go. Raises OSError."""
    if sock.family == socket.AF_INET6:
        try:
            raw = sock.getsockopt(_SOL_IPV6, _ORIGINAL_DESTINATION, 28)
        except OSError:  # an IPv4 client of a listener for both
            raw = b""
        if raw:
            port, packed = struct.unpack_from(">2xH4x16s", raw)
            return plain(IPv6Address(packed)), port
    raw = sock.getsockopt(socket.SOL_IP, _ORIGINAL_DESTINATION, 16)
    port, packed = struct.unpack_from(">2xH4s", raw)
    return IPv4Address(packed), port


@dataclass(frozen=True)
class HostResolution:
    """How this host resolves names.

    Attributes:
        servers: its name servers, as a policy would hold them.
        names: what its hosts file says.
    """

    servers: tuple[str, ...] = ()
    names: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Sockets:
    """What the host listens on inside a sandbox's network namespace."""

    tcp: socket.socket
    dns_udp: socket.socket
    dns_tcp: socket.socket

    def close(self) -> None:
        """Close all three."""
        for sock in (self.tcp, self.dns_udp, self.dns_tcp):
            sock.close()


class Outlet:
    """The way out of one sandbox."""

    def __init__(
        self,
        policy: NetworkPolicy,
        own: frozenset[Address],
        *,
        pipes: Pipes,
        host: HostResolution,
        issuer: Issuer | None = None,
        find_destination: FindDestination = original_destination,
    ) -> None:
        self.own = own
        self.pipes = pipes
        self.issuer = issuer
        self.names = SyntheticNames()
        self.meter = Meter(policy.bandwidth)
        self.rules = Rules(policy)
        self._host = host
        self.resolver = self._make_resolver()
        self._dns = DnsServer(self.names, self._exists)
        self._find_destination = find_destination
        self._connections: set[Connection] = set()
        self._log: deque[ConnectionRecord] = deque(maxlen=LOG_LENGTH)
        self._opened = 0
        self._refused = 0

    async def run(self, sockets: Sockets) -> None:
        """Serve until cancelled."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._dns.serve_udp, sockets.dns_udp)
            tasks.start_soon(self._dns.serve_tcp, sockets.dns_tcp)
            while True:
                try:
                    client = await accept(sockets.tcp)
                except OSError:  # descriptors are used up, until some connection ends
                    await anyio.sleep(0.05)
                    continue
                self._admit(client, tasks)
                await anyio.lowlevel.checkpoint()

    def update(self, policy: NetworkPolicy, issuer: Issuer | None = None) -> int:
        """Hold everything to `policy` from now on; how many connections it cut."""
        before, self.rules = self.rules.policy, Rules(policy)
        self.issuer = issuer or self.issuer
        self.meter.limit(policy.bandwidth)
        if policy.dns_servers != before.dns_servers:
            self.resolver = self._make_resolver()
        count = 0
        for connection in self._connections:
            reason = self._why_cut(connection, before)
            if reason:
                connection.cut(reason)
                count += 1
        return count

    def report(self) -> NetworkReport:
        """What was done so far."""
        return NetworkReport(
            bytes_in=self.meter.bytes_in,
            bytes_out=self.meter.bytes_out,
            open=len(self._connections),
            opened=self._opened + sum(c.dialled for c in self._connections),
            refused=self._refused,
            dns_queries=self._dns.counts.answered,
            dns_dropped=self._dns.counts.dropped,
            log=tuple(self._log),
        )

    def _admit(self, client: socket.socket, tasks: anyio.abc.TaskGroup) -> None:
        if len(self._connections) >= self.rules.policy.max_connections:
            self._refused += 1
            reset(client)
            return
        try:
            destination = self._find_destination(client)
            connection = Connection(self, accepted(client), destination)
        except OSError:  # it came to the listener without being redirected, or has gone
            self._refused += 1
            reset(client)
            return
        self._connections.add(connection)
        tasks.start_soon(self._serve, connection)

    async def _serve(self, connection: Connection) -> None:
        try:
            record = await connection.run()
        finally:
            self._connections.discard(connection)
        self._opened += connection.dialled
        self._refused += record.verdict == "refused"
        self._log.append(record)

    def _why_cut(self, connection: Connection, before: NetworkPolicy) -> str:
        now = self.rules.policy
        if now.egress_proxy != before.egress_proxy:
            return "the new policy goes another way"
        route = connection.route
        if route is not None and route.name is not None:
            held, asked = Rules(before).header_rule(route.name), self.rules.header_rule(route.name)
            if held != asked:
                return "the new policy has other header rules"
        return connection.judge_again(self.rules).reason

    async def _exists(self, name: str) -> bool | None:
        """What the name server says of `name`."""
        policy = self.rules.policy
        if self.rules.about_name(name) is ByName.CLOSED or policy.dns_servers == ():
            return False
        if policy.egress_proxy is not None:
            return True
        found = await self.resolver.resolve(name)
        return None if found.failed else found.exists

    def _make_resolver(self) -> Resolver:
        named = self.rules.policy.dns_servers
        servers = self._host.servers if named is None else named
        names = self._host.names if named is None else {}
        return Resolver([parse_server(server) for server in servers], names)
