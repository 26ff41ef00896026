"""Header rules: the secret goes to the host it is for, and to nobody else."""

from __future__ import annotations

import socket
import ssl
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.abc
import pytest
from anyio.streams.tls import TLSStream
from egress_kit import LOOPBACK, PATIENCE, World, client_hello, is_reset, world
from hypothesis import given
from hypothesis import strategies as st

from atoll.egress import injection
from atoll.egress.authority import Authority, Issuer
from atoll.egress.client_hello import Malformed
from atoll.egress.http_head import read_request_head
from atoll.egress.injection import rewrite
from atoll.egress.meter import Meter, Tally
from atoll.egress.streams import SocketByteStream
from atoll.model import HeaderRule, NetworkPolicy

pytestmark = pytest.mark.anyio

NAME = "api.example"
RULE = HeaderRule(NAME, {"Authorization": "Bearer secret"}, {"ATOLL_PLACEHOLDER": "hunter2"})


def trusting(authority: Authority) -> ssl.SSLContext:
    return ssl.create_default_context(cadata=authority.certificate)


class Relay:
    """A client and a real host with an injection between them, each speaking TLS."""

    def __init__(self, client: TLSStream, seen: list[bytes]) -> None:
        self.client = client
        self.seen = seen

    async def say(self, request: bytes) -> bytes:
        """The host's answer, which is what it was asked."""
        await self.client.send(request)
        return await self.client.receive()


@asynccontextmanager
async def relay(server_name: str = NAME) -> AsyncIterator[Relay]:
    """The host has a certificate for `server_name`, of an authority that the proxy trusts."""
    world_authority, own = Authority.make(), Authority.make()
    host_context = Issuer(world_authority).context_for(server_name)
    seen: list[bytes] = []
    given_rule = injection.Injection(
        NAME, RULE, Issuer(own).context_for(NAME), trusting(world_authority)
    )

    async def host(stream: anyio.abc.ByteStream) -> None:
        async with await TLSStream.wrap(
            stream, server_side=True, ssl_context=host_context, standard_compatible=False
        ) as tls:
            async for data in tls:
                seen.append(data)
                await tls.send(data)

    client_end, proxy_client = _pair()
    host_end, proxy_host = _pair()
    outcome: list[BaseException] = []

    async def proxy() -> None:
        try:
            await injection.relay(
                SocketByteStream(proxy_client),
                SocketByteStream(proxy_host),
                given_rule,
                Tally(Meter()),
            )
        except* (Malformed, ssl.SSLError, anyio.BrokenResourceError) as group:
            outcome.append(group)
        finally:
            proxy_client.close()
            proxy_host.close()

    async def serve() -> None:
        try:
            await host(SocketByteStream(host_end))
        except* (anyio.BrokenResourceError, anyio.EndOfStream, ssl.SSLError):
            seen.append(b"broken")

    with client_end, host_end, anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(proxy)
            tasks.start_soon(serve)
            client = await TLSStream.wrap(
                SocketByteStream(client_end),
                hostname=NAME,
                ssl_context=trusting(own),
                standard_compatible=False,
            )
            yield Relay(client, seen)
            tasks.cancel_scope.cancel()


def _pair() -> tuple[socket.socket, socket.socket]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    return ours, theirs


REQUEST = (
    b"GET /x HTTP/1.1\r\nHost: api.example\r\nauthorization: mine\r\n"
    b"X-Key: a ATOLL_PLACEHOLDER b\r\n\r\n"
)


async def test_headers_are_set_and_placeholders_replaced_in_every_request() -> None:
    async with relay() as r:
        for _ in range(2):
            assert await r.say(REQUEST) == (
                b"GET /x HTTP/1.1\r\nHost: api.example\r\nX-Key: a hunter2 b\r\n"
                b"Authorization: Bearer secret\r\n\r\n"
            )


async def test_a_body_goes_on_as_it_is() -> None:
    async with relay() as r:
        await r.client.send(
            b"POST / HTTP/1.1\r\nHost: api.example\r\nContent-Length: 17\r\n\r\nATOLL_PLACEHOLDER"
        )
        await r.client.send(REQUEST)
        answer = b""
        while answer.count(b"Bearer secret") < 2:
            answer += await r.client.receive()

    assert answer.count(b"ATOLL_PLACEHOLDER") == 1
    assert b"\r\n\r\nATOLL_PLACEHOLDERGET /x" in answer


async def test_chunks_are_followed_to_their_end_and_trailers_dropped() -> None:
    async with relay() as r:
        await r.client.send(
            b"POST / HTTP/1.1\r\nHost: api.example\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"5;x=y\r\nhello\r\n0\r\nAuthorization: mine\r\n\r\n" + REQUEST
        )
        answer = b""
        while answer.count(b"Bearer secret") < 2:
            answer += await r.client.receive()

    assert b"\r\n\r\n5\r\nhello\r\n0\r\n\r\nGET /x" in answer
    assert b"mine" not in answer


@pytest.mark.parametrize(
    "request_",
    [
        REQUEST.replace(b"Host: api.example", b"Host: evil.test"),
        REQUEST.replace(b"Host: api.example", b"Host: api.example:8443"),
        REQUEST.replace(b"Host: api.example", b"Host: api.example\r\nHost: evil.test"),
        REQUEST.replace(b"GET /x", b"GET https://evil.test/x"),
        REQUEST.replace(b"GET /x", b"CONNECT api.example:443"),
        REQUEST.replace(
            b"\r\n\r\n", b"\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"
        ),
        REQUEST.replace(b"\r\n", b"\n"),
    ],
)
async def test_a_request_for_another_host_or_with_two_readings_gets_nothing(
    request_: bytes,
) -> None:
    async with relay() as r:
        await r.client.send(request_)
        with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
            await r.client.receive()

    assert not any(b"secret" in data or b"hunter2" in data for data in r.seen)


async def test_a_host_that_cannot_prove_its_name_is_told_nothing() -> None:
    with pytest.raises(BaseExceptionGroup) as caught:
        async with relay("evil.test"):
            raise AssertionError("the client was answered")

    assert caught.group_contains((anyio.BrokenResourceError, anyio.EndOfStream, ssl.SSLError))


HOSTS = {NAME: [LOOPBACK]}


def policy() -> NetworkPolicy:
    return NetworkPolicy(allow_internet_access=False, allow_out=(NAME, LOOPBACK), rules=(RULE,))


async def first_bytes_are_refused(w: World, first: bytes) -> bool:
    sock = await w.connect_name(NAME, 443)
    sock.send(first)
    return await is_reset(sock)


async def test_a_host_with_rules_is_reached_by_https_only() -> None:
    async with world(policy(), HOSTS, Issuer(Authority.make())) as w:
        assert await first_bytes_are_refused(w, b"GET / HTTP/1.1\r\nHost: api.example\r\n\r\n")
        assert await first_bytes_are_refused(w, client_hello("other.example"))
        assert await first_bytes_are_refused(w, client_hello(None))
        reasons = {record.reason for record in w.outlet.report().log}

    assert reasons == {"a host with header rules is reached by HTTPS under its own name only"}


def test_the_authority_is_made_once_and_is_the_owners_alone(tmp_path: Path) -> None:
    made = Authority.load_or_make(tmp_path / "egress")

    assert Authority.load_or_make(tmp_path / "egress") == made
    mode = (tmp_path / "egress" / "authority.pem").stat().st_mode
    assert stat.S_IMODE(mode) == 0o600
    assert [path.name for path in (tmp_path / "egress").iterdir()] == ["authority.pem"]
    assert made.key not in repr(made)


async def test_a_leaf_is_good_for_its_name_only() -> None:
    authority = Authority.make()
    context = Issuer(authority).context_for(NAME)

    async def handshake(name: str) -> str:
        near, far = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = trusting(authority).wrap_bio(near, far, server_hostname=name)
        server = context.wrap_bio(far, near, server_side=True)
        for _ in range(4):
            for side in (client, server):
                try:
                    side.do_handshake()
                except ssl.SSLWantReadError:
                    continue
                except ssl.SSLCertVerificationError as error:
                    return error.verify_message
        return "good"

    assert await handshake(NAME) == "good"
    assert "mismatch" in await handshake("evil.test")


@given(
    st.dictionaries(
        st.sampled_from(["X-A", "Authorization", "Cookie"]), st.text("ab;=", min_size=1)
    )
)
def test_a_rewritten_head_has_each_header_of_the_rule_once(headers: dict[str, str]) -> None:
    rule = HeaderRule(NAME, headers)
    head = read_request_head(REQUEST)
    assert head is not None

    again = read_request_head(rewrite(head, rule))

    assert again is not None
    assert again.authority == head.authority
    for name, value in headers.items():
        assert again.values(name.lower().encode()) == [value.encode()]
