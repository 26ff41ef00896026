"""Through a SOCKS5 proxy of the policy's: it resolves names, and sees nothing that is closed."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio
import anyio.abc
import pytest
from anyio.streams.tls import TLSStream
from egress_kit import LOOPBACK, echo_server, is_reset, world

from atoll.egress.authority import Authority, Issuer
from atoll.egress.streams import receive, send_all
from atoll.model import EgressProxy, NetworkPolicy

pytestmark = pytest.mark.anyio


@dataclass
class SocksServer:
    """A SOCKS5 server that connects whatever it is asked for to one port on loopback."""

    target: int
    password: bytes | None = None
    context: ssl.SSLContext | None = None
    refuse: int = 0
    port: int = 0
    asked: list[bytes] = field(default_factory=list)

    async def serve(self, raw: anyio.abc.SocketStream) -> None:
        stream: anyio.abc.ByteStream = raw
        try:
            if self.context:
                stream = await TLSStream.wrap(
                    raw, server_side=True, ssl_context=self.context, standard_compatible=False
                )
            await self._speak(stream)
        except (anyio.BrokenResourceError, anyio.EndOfStream, ssl.SSLError):
            self.asked.append(b"broken")
        finally:
            await stream.aclose()

    async def _speak(self, stream: anyio.abc.ByteStream) -> None:
        greeting = await stream.receive(100)
        if greeting != (b"\5\1\2" if self.password else b"\5\1\0"):
            await stream.send(b"\5\xff")
            return
        await stream.send(b"\5" + greeting[2:])
        if self.password:
            good = await stream.receive(600) == self.password
            await stream.send(b"\1" + (b"\0" if good else b"\1"))
        self.asked.append(await stream.receive(300))
        await stream.send(b"\5" + bytes([self.refuse]) + b"\0\1\0\0\0\0\0\0")
        if self.refuse:
            return
        async with await anyio.connect_tcp(LOOPBACK, self.target) as far:
            async for data in stream:
                await far.send(data)
                await stream.send(await far.receive())


@asynccontextmanager
async def socks(**settings: object) -> AsyncIterator[SocksServer]:
    async with (
        echo_server() as target,
        await anyio.create_tcp_listener(local_host=LOOPBACK) as listener,
        anyio.create_task_group() as tasks,
    ):
        server = SocksServer(target, **settings)  # type: ignore[arg-type]
        server.port = listener.extra(anyio.abc.SocketAttribute.local_port)
        tasks.start_soon(listener.serve, server.serve)
        yield server
        tasks.cancel_scope.cancel()


def policy(server: SocksServer, **fields: object) -> NetworkPolicy:
    proxy = EgressProxy(f"{LOOPBACK}:{server.port}", **fields)  # type: ignore[arg-type]
    return NetworkPolicy(egress_proxy=proxy)


async def test_a_name_goes_to_the_proxy_unresolved() -> None:
    async with socks() as server, world(policy(server)) as w:
        with await w.connect_name("only.the.proxy.knows", 2222) as sock:
            await send_all(sock, b"hello\r\n")
            assert await receive(sock, 100) == b"hello\r\n"

    assert server.asked == [b"\5\1\0\3\x14only.the.proxy.knows\x08\xae"]


async def test_an_address_goes_to_the_proxy_as_it_is() -> None:
    async with socks() as server, world(policy(server)) as w:
        with await w.connect("8.8.8.8", 53) as sock:
            await send_all(sock, b"hello\r\n")
            assert await receive(sock, 100) == b"hello\r\n"

    assert server.asked == [b"\5\1\0\1\x08\x08\x08\x08\0\x35"]


async def test_what_is_closed_never_reaches_the_proxy() -> None:
    async with socks() as server, world(policy(server)) as w:
        assert await is_reset(await w.connect("169.254.169.254", 80))
        assert (await w.query("localhost.localdomain.localhost")).rcode() == 3

    assert server.asked == []


async def test_networks_cannot_be_denied_to_names_that_the_proxy_resolves() -> None:
    async with socks() as server:
        denying = policy(server).with_changes(deny_out=("1.0.0.0/8",))
        async with world(denying) as w:
            assert await is_reset(await w.connect_name("somewhere.test", 80))

    assert server.asked == []


async def test_the_password_is_given() -> None:
    login = b"\1\2me\6secret"
    async with socks(password=login) as server:
        with_password = policy(server, username="me", password="secret")
        async with world(with_password) as w, anyio.create_task_group():
            with await w.connect_name("a.test", 80) as sock:
                await send_all(sock, b"hello\r\n")
                assert await receive(sock, 100) == b"hello\r\n"
        wrong = policy(server, username="me", password="guess")
        async with world(wrong) as w:
            assert await is_reset(await w.connect_name("a.test", 80))
            assert "refuses the username" in w.outlet.report().log[0].reason


async def test_a_refusal_is_told_by_its_reason() -> None:
    async with socks(refuse=2) as server, world(policy(server)) as w:
        assert await is_reset(await w.connect_name("a.test", 80))
        assert "its rules forbid it" in w.outlet.report().log[0].reason


async def test_the_proxy_may_be_spoken_to_by_tls() -> None:
    authority = Authority.make()
    async with socks(context=Issuer(authority).context_for("proxy.test")) as server:
        good = policy(server, tls=True, server_name="proxy.test", ca_cert=authority.certificate)
        async with world(good) as w:
            with await w.connect_name("a.test", 80) as sock:
                await send_all(sock, b"hello\r\n")
                assert await receive(sock, 100) == b"hello\r\n"
            assert w.outlet.report().bytes_in == 7
        other = policy(server, tls=True, server_name="other.test", ca_cert=authority.certificate)
        async with world(other) as w:
            assert await is_reset(await w.connect_name("a.test", 80))
            assert w.outlet.report().refused == 1
