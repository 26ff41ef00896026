"""What the tests of the egress proxy share: ClientHellos, name servers, outlets on loopback."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import anyio
import anyio.abc
import anyio.lowlevel
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

from atoll.egress.addresses import Address, parse_address
from atoll.egress.authority import Issuer
from atoll.egress.outlet import HostResolution, Outlet, Sockets
from atoll.egress.relay import Pipes
from atoll.egress.streams import receive, send_all
from atoll.model import NetworkPolicy

PATIENCE = 10.0
LOOPBACK = "127.0.0.1"
OWN = frozenset({parse_address("10.0.0.2"), parse_address("192.0.2.1")})


def client_hello(name: str | None, alpn: Iterable[str] = ("h2", "http/1.1")) -> bytes:
    """What OpenSSL sends first."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(list(alpn))
    out = ssl.MemoryBIO()
    session = context.wrap_bio(ssl.MemoryBIO(), out, server_hostname=name)
    try:
        session.do_handshake()
    except ssl.SSLWantReadError:
        return out.read()
    raise AssertionError("a handshake without a server")


def listener() -> socket.socket:
    """A listening socket on loopback."""
    sock = socket.socket()
    sock.bind((LOOPBACK, 0))
    sock.listen(64)
    sock.setblocking(False)
    return sock


def datagrams() -> socket.socket:
    """A bound datagram socket on loopback."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((LOOPBACK, 0))
    sock.setblocking(False)
    return sock


@dataclass
class NameServer:
    """A real name server on loopback that knows a few names.

    Attributes:
        records: name to the texts of its records, each ``A 1.2.3.4`` or the like.
        asked: the names of the questions that came.
        truncate: answer by datagram only that TCP should be used.
    """

    records: dict[str, list[str]]
    asked: list[str] = field(default_factory=list)
    truncate: bool = False
    port: int = 0

    def answer(self, data: bytes, *, stream: bool) -> bytes:
        """The answer to one question."""
        query = dns.message.from_wire(data)
        question = query.question[0]
        name = question.name.to_text(omit_final_dot=True).lower()
        self.asked.append(name)
        response = dns.message.make_response(query)
        if self.truncate and not stream:
            response.flags |= dns.flags.TC
            return response.to_wire()
        if name not in self.records:
            response.set_rcode(dns.rcode.NXDOMAIN)
        self._fill(response, name, question.rdtype)
        return response.to_wire()

    def _fill(
        self, response: dns.message.Message, name: str, kind: dns.rdatatype.RdataType
    ) -> None:
        for record in self.records.get(name, []):
            of, _, value = record.partition(" ")
            if of in (dns.rdatatype.to_text(kind), "CNAME"):
                response.answer.append(dns.rrset.from_text(f"{name}.", 60, "IN", of, value))
            if of == "CNAME":
                self._fill(response, value.rstrip("."), kind)

    async def serve_udp(self, sock: socket.socket) -> None:
        """Answer datagrams."""
        while True:
            await anyio.wait_readable(sock)
            data, sender = sock.recvfrom(4096)
            sock.sendto(self.answer(data, stream=False), sender)

    async def serve_tcp(self, sock: socket.socket) -> None:
        """Answer one question on each connection."""
        while True:
            await anyio.wait_readable(sock)
            client, _ = sock.accept()
            client.setblocking(False)
            with client:
                data = await receive(client, 4096)
                wire = self.answer(data[2:], stream=True)
                await send_all(client, len(wire).to_bytes(2, "big") + wire)


@asynccontextmanager
async def name_server(
    records: dict[str, list[str]], *, truncate: bool = False
) -> AsyncIterator[NameServer]:
    """A name server, served while the block runs."""
    server = NameServer(records, truncate=truncate)
    with datagrams() as udp, socket.socket() as tcp:
        server.port = udp.getsockname()[1]
        tcp.bind((LOOPBACK, server.port))
        tcp.listen()
        tcp.setblocking(False)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.serve_udp, udp)
            tasks.start_soon(server.serve_tcp, tcp)
            yield server
            tasks.cancel_scope.cancel()


class World:
    """A sandbox's outlet on loopback, and clients that say where they want to go.

    In a sandbox the kernel knows that of each connection; here the test says it.
    """

    def __init__(self, outlet: Outlet, sockets: Sockets) -> None:
        self.outlet = outlet
        self._tcp: tuple[str, int] = sockets.tcp.getsockname()
        self._udp: tuple[str, int] = sockets.dns_udp.getsockname()
        self.dns_tcp: tuple[str, int] = sockets.dns_tcp.getsockname()
        self.destinations: list[tuple[Address, int]] = []

    def find_destination(self, _sock: socket.socket) -> tuple[Address, int]:
        """The kernel's part."""
        return self.destinations.pop(0)

    async def connect(self, address: str, port: int) -> socket.socket:
        """A client's connection to `address`."""
        self.destinations.append((parse_address(address), port))
        sock = await self.connect_again()
        while self.destinations:  # noqa: ASYNC110 (until it was accepted)
            await anyio.lowlevel.checkpoint()
        return sock

    async def connect_again(self) -> socket.socket:
        """A client's connection that is not said to go anywhere."""
        sock = socket.socket()
        sock.setblocking(False)
        sock.connect_ex(self._tcp)
        await anyio.wait_writable(sock)
        return sock

    async def connect_name(self, name: str, port: int) -> socket.socket:
        """A client's connection to what the outlet's name server answers."""
        return await self.connect(await self.ask(name), port)

    async def query(self, name: str, kind: str = "A") -> dns.message.Message:
        """The name server's answer."""
        query = dns.message.make_query(name, kind)
        return dns.message.from_wire(await self.send_query(query.to_wire()))

    async def send_query(self, data: bytes) -> bytes:
        """The answer to any datagram."""
        with datagrams() as sock, anyio.fail_after(PATIENCE):
            sock.connect(self._udp)
            sock.send(data)
            return await receive(sock, 4096)

    async def ask(self, name: str) -> str:
        """The address that the name server gives."""
        answer = await self.query(name)
        return str(answer.answer[0][0])


@asynccontextmanager
async def world(
    policy: NetworkPolicy,
    hosts: Mapping[str, list[str]] | None = None,
    issuer: Issuer | None = None,
) -> AsyncIterator[World]:
    """An outlet, served while the block runs."""
    pipes = Pipes()
    sockets = Sockets(listener(), datagrams(), listener())
    # The outlet asks the world where a client wanted to go, and the world needs the outlet.
    worlds: list[World] = []
    outlet = Outlet(
        policy,
        OWN,
        pipes=pipes,
        host=HostResolution((), hosts or {}),
        issuer=issuer,
        find_destination=lambda sock: worlds[0].find_destination(sock),
    )
    worlds.append(World(outlet, sockets))
    try:
        with anyio.fail_after(PATIENCE * 3):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(outlet.run, sockets)
                yield worlds[0]
                tasks.cancel_scope.cancel()
    finally:
        sockets.close()
        pipes.close()


async def read_all(sock: socket.socket) -> bytes:
    """Everything up to the end. Raises ConnectionResetError."""
    data = b""
    with anyio.fail_after(PATIENCE):
        while more := await receive(sock, 65536):
            data += more
    return data


async def is_reset(sock: socket.socket) -> bool:
    """True if the connection ends with a reset and without a byte."""
    try:
        return await read_all(sock) != b"" and False
    except ConnectionResetError:
        return True
    finally:
        sock.close()


@asynccontextmanager
async def echo_server(greeting: bytes = b"") -> AsyncIterator[int]:
    """A server that speaks first, if it has a greeting, and sends back what it gets."""

    async def serve(client: anyio.abc.SocketStream) -> None:
        with suppress(anyio.BrokenResourceError):  # the proxy resets what it cuts
            await echo(client)

    async def echo(client: anyio.abc.SocketStream) -> None:
        async with client:
            if greeting:
                await client.send(greeting)
            async for data in client:
                await client.send(data)

    async with (
        await anyio.create_tcp_listener(local_host=LOOPBACK) as server,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(server.serve, serve)
        yield server.extra(anyio.abc.SocketAttribute.local_port)
        tasks.cancel_scope.cancel()
