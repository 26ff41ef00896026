"""Real connections through an outlet on loopback: who gets where, and who is cut."""

from __future__ import annotations

import time

import anyio
import pytest
from egress_kit import (
    LOOPBACK,
    World,
    client_hello,
    echo_server,
    is_reset,
    listener,
    name_server,
    read_all,
    world,
)

from atoll.egress.streams import receive, send_all
from atoll.model import NetworkPolicy

pytestmark = pytest.mark.anyio

HOSTS = {"a.example": [LOOPBACK], "b.example": [LOOPBACK], "evil.test": [LOOPBACK]}
NAMED = NetworkPolicy(allow_internet_access=False, allow_out=("a.example", LOOPBACK))
REQUEST = b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"


def reasons(world: World) -> list[str]:
    return [record.reason for record in world.outlet.report().log]


async def until_open(world: World, count: int) -> None:
    """Wait until `count` connections are alive."""
    while world.outlet.report().open != count:  # noqa: ASYNC110 (the outlet tells nobody)
        await anyio.sleep(0.001)


async def test_an_open_name_is_reached_and_counted() -> None:
    async with echo_server() as port, world(NAMED, HOSTS) as w:
        with await w.connect_name("a.example", port) as sock:
            await send_all(sock, REQUEST)
            assert await receive(sock, 4096) == REQUEST
        await until_open(w, 0)
        report = w.outlet.report()

    assert (report.bytes_in, report.bytes_out) == (len(REQUEST), len(REQUEST))
    assert (report.opened, report.refused) == (1, 0)
    [record] = report.log
    assert (record.target, record.port, record.verdict) == ("a.example", port, "closed")
    assert record.address == LOOPBACK


async def test_a_server_may_speak_first_under_a_name_rule() -> None:
    async with echo_server(b"220 hello\r\n") as port, world(NAMED, HOSTS) as w:
        with await w.connect_name("a.example", port) as sock:
            assert await receive(sock, 100) == b"220 hello\r\n"
            await send_all(sock, b"EHLO me\r\n")
            assert await receive(sock, 100) == b"EHLO me\r\n"


async def test_the_end_of_one_way_leaves_the_other_open() -> None:
    async with echo_server() as port, world(NAMED, HOSTS) as w:
        with await w.connect_name("a.example", port) as sock:
            await send_all(sock, b"\0" * 300_000)
            sock.shutdown(1)
            assert await read_all(sock) == b"\0" * 300_000


async def test_a_closed_name_has_no_address() -> None:
    async with world(NAMED, HOSTS) as w:
        answer = await w.query("evil.test")

    assert answer.rcode() == 3
    assert not answer.answer


@pytest.mark.parametrize(
    "first",
    [
        client_hello("evil.test"),
        b"GET / HTTP/1.1\r\nHost: evil.test\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 10.0.0.1\r\n\r\n",
        b"CONNECT evil.test:443 HTTP/1.1\r\nHost: evil.test:443\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a.example\r\nHost: evil.test\r\n\r\n",
    ],
)
async def test_an_open_name_is_no_way_to_another(first: bytes) -> None:
    async with echo_server() as port, world(NAMED, HOSTS) as w:
        sock = await w.connect_name("a.example", port)
        await send_all(sock, first)

        assert await is_reset(sock)


async def test_a_foreign_address_is_reached_as_what_its_name_resolves_to() -> None:
    """An allowed name in the first bytes opens the host's own idea of it, never the address."""
    async with echo_server() as port, world(NAMED, HOSTS) as w:
        with await w.connect("8.8.8.8", port) as sock:
            await send_all(sock, REQUEST)
            assert await receive(sock, 4096) == REQUEST
        await until_open(w, 0)

        assert w.outlet.report().log[0].address == LOOPBACK
        for first in (client_hello("evil.test"), b"SSH-2.0-x\r\n", client_hello(None)):
            sock = await w.connect("8.8.8.8", port)
            await send_all(sock, first)
            assert await is_reset(sock)


@pytest.mark.parametrize(
    "address", ["10.0.0.2", "192.0.2.1", "127.0.0.1", "127.0.0.9", "0.0.0.0", "::1"]
)
async def test_the_sandbox_itself_is_no_destination(address: str) -> None:
    policy = NetworkPolicy(allow_out=("127.0.0.0/8", "10.0.0.0/8", "192.0.2.0/24"))
    async with echo_server() as port, world(policy) as w:
        assert await is_reset(await w.connect(address, port))
        assert reasons(w) == ["an address of the sandbox itself"]


@pytest.mark.parametrize("address", ["169.254.169.254", "10.1.2.3", "198.18.0.9", "fd00:ec2::254"])
async def test_special_addresses_are_refused(address: str) -> None:
    async with world(NetworkPolicy.internet()) as w:
        assert await is_reset(await w.connect(address, 80))
        assert w.outlet.report().refused == 1


async def test_a_name_that_resolves_to_a_closed_address_is_refused() -> None:
    """Rebinding: what counts is what is dialled."""
    hosts = {"rebound.test": ["127.0.0.1", "169.254.169.254", "::ffff:10.0.0.1"]}
    policy = NetworkPolicy(allow_internet_access=False, allow_out=("rebound.test",))
    async with world(policy, hosts) as w:
        assert await is_reset(await w.connect_name("rebound.test", 80))
        assert "closed unless named" in reasons(w)[0]


async def test_a_denied_name_is_refused_at_any_address() -> None:
    policy = NetworkPolicy(allow_out=(LOOPBACK,), deny_out=("*.evil.test",))
    hosts = {"good.test": [LOOPBACK]}
    async with echo_server() as port, world(policy, hosts) as w:
        sock = await w.connect_name("good.test", port)
        await send_all(sock, client_hello("www.evil.test"))

        assert await is_reset(sock)


async def test_nobody_there_is_a_reset() -> None:
    with listener() as gone:
        port = gone.getsockname()[1]
    async with world(NAMED, HOSTS) as w:
        assert await is_reset(await w.connect_name("a.example", port))
        assert "cannot connect" in reasons(w)[0]


async def test_connections_over_the_quota_are_refused() -> None:
    policy = NAMED.with_changes(max_connections=2)
    async with echo_server() as port, world(policy, HOSTS) as w:
        address = await w.ask("a.example")
        kept = [await w.connect(address, port) for _ in range(2)]
        await until_open(w, 2)
        over = w.outlet.report().refused
        assert await is_reset(await w.connect_again())
        assert w.outlet.report().refused == over + 1
        for sock in kept:
            sock.close()


async def test_an_update_cuts_what_became_closed_and_nothing_else() -> None:
    both = NAMED.with_changes(allow_out=("a.example", "b.example", LOOPBACK))
    async with echo_server() as port, world(both, HOSTS) as w:
        a, b = [await w.connect_name(f"{name}.example", port) for name in "ab"]
        for sock in (a, b):
            await send_all(sock, b"PING\r\n")
            assert await receive(sock, 10) == b"PING\r\n"

        assert w.outlet.update(NAMED) == 1

        assert await is_reset(b)
        await send_all(a, b"PING\r\n")
        assert await receive(a, 10) == b"PING\r\n"
        await until_open(w, 1)
        assert w.outlet.report().log[0].verdict == "cut"
        assert (await w.query("b.example")).rcode() == 3
        assert w.outlet.update(NetworkPolicy(allow_internet_access=False)) == 1
        assert await is_reset(a)


async def test_first_bytes_are_judged_by_the_policy_of_their_time() -> None:
    both_open = NetworkPolicy(allow_out=(LOOPBACK,), deny_out=("other.test",))
    async with echo_server(b"hello") as port, world(both_open, HOSTS) as w:
        sock = await w.connect_name("a.example", port)
        assert await receive(sock, 10) == b"hello"  # dialled, and nothing said yet

        assert w.outlet.update(NAMED) == 0
        await send_all(sock, client_hello("evil.test"))

        assert await is_reset(sock)


async def test_an_update_while_a_name_resolves_counts() -> None:
    """Who was let in by the old policy and dialled after the new one is refused."""
    policy = NAMED.with_changes(dns_servers=())
    with listener() as silent, listener() as server:
        port = server.getsockname()[1]
        proxy = {"address": f"{LOOPBACK}:{silent.getsockname()[1]}"}
        slow = NetworkPolicy.of(policy.to_mapping() | {"egress_proxy": proxy})
        assert slow is not None
        async with world(slow, HOSTS) as w:
            address = str(w.outlet.names.address_of("a.example"))
            sock = await w.connect(address, port)
            await anyio.wait_readable(silent)  # the proxy was dialled and says nothing
            assert w.outlet.update(NetworkPolicy(allow_internet_access=False)) == 1
            assert await is_reset(sock)


async def test_the_bandwidth_is_held() -> None:
    policy = NAMED.with_changes(bandwidth=200_000)
    async with echo_server() as port, world(policy, HOSTS) as w:
        with await w.connect_name("a.example", port) as sock:
            start = time.monotonic()
            await send_all(sock, b"\0" * 50_000)
            sock.shutdown(1)
            assert len(await read_all(sock)) == 50_000
            taken = time.monotonic() - start

    # 100,000 bytes in and out, of which 20,000 may come at once.
    assert 0.35 < taken < 1.5


async def test_the_log_is_bounded() -> None:
    async with world(NetworkPolicy.internet()) as w:
        for _ in range(140):
            (await w.connect("10.1.2.3", 80)).close()
        await until_open(w, 0)
        report = w.outlet.report()

    assert report.refused == 140
    assert len(report.log) == 128


async def test_names_are_resolved_by_the_servers_of_the_policy() -> None:
    async with (
        echo_server() as port,
        name_server({"real.test": ["CNAME alias.test."], "alias.test": ["A 127.0.0.1"]}) as server,
    ):
        policy = NetworkPolicy(
            allow_internet_access=False,
            allow_out=("real.test", LOOPBACK),
            dns_servers=(f"{LOOPBACK}:{server.port}",),
        )
        async with world(policy) as w:
            with await w.connect_name("real.test", port) as sock:
                await send_all(sock, b"PING\r\n")
                assert await receive(sock, 10) == b"PING\r\n"
            assert (await w.query("tunnel.evil.test")).rcode() == 3
            assert (await w.query("none.real.test")).rcode() == 3

    # What is closed was not even asked for: the question itself would carry bytes out.
    assert set(server.asked) == {"real.test"}


async def test_no_name_servers_means_no_names() -> None:
    async with world(NetworkPolicy(dns_servers=())) as w:
        assert (await w.query("a.example")).rcode() == 3
