"""The name server for sandboxes, the resolver behind it, and the addresses that stand for names."""

from __future__ import annotations

import socket

import anyio
import dns.exception
import dns.flags
import dns.message
import dns.rcode
import pytest
from egress_kit import LOOPBACK, PATIENCE, datagrams, name_server, world
from hypothesis import given
from hypothesis import strategies as st

from atoll.egress.addresses import parse_address
from atoll.egress.dns_server import MAX_QUERY, DnsServer
from atoll.egress.meter import Bucket
from atoll.egress.resolver import Resolver, host_names, host_servers, parse_server
from atoll.egress.streams import receive, send_all
from atoll.egress.synthetic import SYNTHETIC_NETWORK, SyntheticNames
from atoll.model import NetworkPolicy

pytestmark = pytest.mark.anyio

HOSTS = {"a.example": ["10.0.0.7"], "b.example": ["10.0.0.8"]}
OPEN = NetworkPolicy.internet()


async def anything(_name: str) -> bool:
    return True


def resolver(port: int) -> Resolver:
    return Resolver([parse_server(f"{LOOPBACK}:{port}")])


async def test_each_name_has_one_synthetic_address() -> None:
    async with world(OPEN, HOSTS) as w:
        a, b = await w.ask("a.example"), await w.ask("b.example")

        assert a != b
        assert {parse_address(a) in SYNTHETIC_NETWORK, parse_address(b) in SYNTHETIC_NETWORK} == {
            True
        }
        assert await w.ask("A.eXample") == a


@pytest.mark.parametrize("kind", ["AAAA", "HTTPS", "SVCB", "TXT", "MX", "SRV", "ANY", "CNAME"])
async def test_other_records_of_an_open_name_are_none(kind: str) -> None:
    async with world(OPEN, HOSTS) as w:
        answer = await w.query("a.example", kind)

    assert answer.rcode() == dns.rcode.NOERROR
    assert not answer.answer


async def test_a_synthetic_address_has_its_name_in_reverse() -> None:
    async with world(OPEN, HOSTS) as w:
        address = await w.ask("a.example")
        reverse = ".".join(reversed(address.split("."))) + ".in-addr.arpa"

        assert str((await w.query(reverse, "PTR")).answer[0][0]) == "a.example."
        assert (await w.query("1.0.0.10.in-addr.arpa", "PTR")).rcode() == dns.rcode.NXDOMAIN


@pytest.mark.parametrize(
    "name", ["2130706433", "0x7f.1", "a b.example", "metadata.google.internal"]
)
async def test_a_name_that_is_none_does_not_exist(name: str) -> None:
    async with world(OPEN, HOSTS) as w:
        assert (await w.query(name)).rcode() == dns.rcode.NXDOMAIN


async def test_localhost_is_the_sandbox() -> None:
    async with world(OPEN) as w:
        assert await w.ask("localhost") == LOOPBACK


async def test_questions_by_tcp_are_answered_in_turn() -> None:
    async with world(OPEN, HOSTS) as w:
        with socket.socket() as sock:
            sock.setblocking(False)
            sock.connect_ex(w.dns_tcp)
            await anyio.wait_writable(sock)
            for name in HOSTS:
                wire = dns.message.make_query(name, "A").to_wire()
                await send_all(sock, len(wire).to_bytes(2, "big") + wire)
                answer = dns.message.from_wire((await receive(sock, 4096))[2:])
                assert str(answer.answer[0][0]) == await w.ask(name)
            await send_all(sock, (MAX_QUERY + 1).to_bytes(2, "big"))
            assert await receive(sock, 10) == b""


async def test_questions_over_the_rate_are_dropped() -> None:
    server = DnsServer(SyntheticNames(), anything, Bucket(1, 3, clock=lambda: 0.0))
    query = dns.message.make_query("a.example", "A").to_wire()

    answers = [await server.answer(query) for _ in range(10)]

    assert [answer is not None for answer in answers] == [True] * 3 + [False] * 7
    assert (server.counts.answered, server.counts.dropped) == (3, 7)


async def test_a_question_that_is_too_long_or_an_answer_is_dropped() -> None:
    server = DnsServer(SyntheticNames(), anything)
    query = dns.message.make_query("a.example", "A")
    long = query.to_wire() + bytes(MAX_QUERY)
    query.flags |= dns.flags.QR

    assert await server.answer(long) is None
    assert await server.answer(query.to_wire()) is None
    assert await server.answer(b"") is None


@given(st.binary(max_size=MAX_QUERY))
def test_no_datagram_breaks_the_server(data: bytes) -> None:
    async def one() -> bytes | None:
        return await DnsServer(SyntheticNames(), anything).answer(data)

    answer = anyio.run(one)
    if answer is not None:
        assert len(answer) <= 2 * MAX_QUERY


@given(st.binary(max_size=60), st.integers(0, 65535), st.integers(0, 3))
def test_no_question_breaks_the_server(name: bytes, kind: int, count: int) -> None:
    labels = b"".join(bytes([len(part)]) + part for part in name.split(b".") if 0 < len(part) < 64)
    question = labels + b"\0" + kind.to_bytes(2, "big") + b"\0\1"
    data = b"\0\7\1\0" + count.to_bytes(2, "big") + bytes(6) + question

    async def one() -> bytes | None:
        return await DnsServer(SyntheticNames(), anything).answer(data)

    answer = anyio.run(one)
    if answer is not None:
        assert answer[:2] == b"\0\7"


def test_forgotten_names_lose_their_address_and_no_other_has_it_soon() -> None:
    names = SyntheticNames(most=2)
    first = names.address_of("a")
    names.address_of("b")
    assert names.address_of("a") == first
    third = names.address_of("c")  # b was used longest ago

    assert len(names) == 2
    assert names.name_of(first) == "a"
    assert names.name_of(third) == "c"
    assert names.address_of("b") not in (first, third)


async def test_a_resolver_follows_aliases_and_remembers() -> None:
    records = {"a.test": ["CNAME b.test."], "b.test": ["A 10.1.1.1", "A 10.1.1.2"]}
    async with name_server(records) as server:
        asking = resolver(server.port)
        first = await asking.resolve("a.test")
        again = await asking.resolve("a.test")

    assert {str(address) for address in first.addresses} == {"10.1.1.1", "10.1.1.2"}
    assert again == first
    assert server.asked.count("a.test") <= 2  # A, and AAAA where the host has IPv6


async def test_a_truncated_answer_is_asked_for_again_by_tcp() -> None:
    async with name_server({"a.test": ["A 10.1.1.1"]}, truncate=True) as server:
        found = await resolver(server.port).resolve("a.test")

    assert [str(address) for address in found.addresses] == ["10.1.1.1"]


async def test_a_name_that_does_not_exist_is_known_not_to() -> None:
    async with name_server({}) as server:
        found = await resolver(server.port).resolve("none.test")

    assert not found.exists
    assert not found.failed


async def test_nobody_to_ask_is_a_failure() -> None:
    with datagrams() as gone:
        port = gone.getsockname()[1]

    assert (await resolver(port).resolve("a.test")).failed
    assert (await Resolver([]).resolve("a.test")).failed


async def test_an_answer_to_another_question_is_ignored() -> None:
    with datagrams() as sock:
        port = sock.getsockname()[1]

        async def lie_then_answer() -> None:
            await anyio.wait_readable(sock)
            data, sender = sock.recvfrom(4096)
            query = dns.message.from_wire(data)
            lie = dns.message.make_response(dns.message.make_query("evil.test", "A"))
            sock.sendto(lie.to_wire(), sender)
            sock.sendto(b"\0", sender)
            sock.sendto(dns.message.make_response(query).to_wire(), sender)

        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(lie_then_answer)
                found = await resolver(port).resolve("a.test")

    assert found.exists
    assert found.addresses == ()


def test_the_files_of_the_host_are_read() -> None:
    conf = "# x\nnameserver 10.0.0.53\nnameserver fe80::1%eth0\nnameserver 2620:fe::fe\nsearch x\n"
    hosts = "127.0.0.1 localhost me # comment\n\n::1 me\nnonsense here\n"

    assert host_servers(conf) == ("10.0.0.53:53", "[2620:fe::fe]:53")
    assert host_names(hosts) == {"localhost": ["127.0.0.1"], "me": ["127.0.0.1", "::1"]}
