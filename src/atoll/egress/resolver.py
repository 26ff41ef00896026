"""Asks the world's name servers, on behalf of one sandbox."""

from __future__ import annotations

import ipaddress
import socket
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import anyio
import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

from atoll.egress.addresses import Address, parse_address
from atoll.egress.dialer import dial
from atoll.egress.streams import receive, send_all

Server = tuple[Address, int]

ATTEMPT_SECONDS = 2.0
ALL_ATTEMPTS_SECONDS = 8.0
_MOST_ADDRESSES = 16
_LONGEST_TTL = 300.0
_SHORTEST_TTL = 1.0
_FAILURE_TTL = 2.0
_MOST_CACHED = 1024
_MOST_UDP = 4096
_MOST_TCP = 16_384


@dataclass(frozen=True)
class Resolution:
    """What a name resolved to.

    Attributes:
        addresses: IPv4 first; empty if there are none.
        exists: False if the name is known not to exist.
        failed: True if nobody answered, or not with an answer.
    """

    addresses: tuple[Address, ...] = ()
    exists: bool = True
    failed: bool = False


def parse_server(text: str) -> Server:
    """Address and port of ``address:port`` or ``[v6]:port``, as a policy holds them."""
    host, _, port = text.rpartition(":")
    return parse_address(host.strip("[]")), int(port)


def host_servers(resolv_conf: str) -> tuple[str, ...]:
    """The name servers of a resolv.conf(5), as a policy would hold them."""
    found = []
    for line in resolv_conf.splitlines():
        words = line.split()
        if len(words) >= 2 and words[0] == "nameserver":
            with suppress(ValueError):
                address = parse_address(words[1])
                found.append(f"[{address}]:53" if address.version == 6 else f"{address}:53")
    return tuple(found[:3])


def host_names(hosts: str) -> dict[str, list[str]]:
    """Name to addresses of a hosts(5)."""
    found: dict[str, list[str]] = {}
    for line in hosts.splitlines():
        address, *names = line.partition("#")[0].split() or [""]
        with suppress(ValueError):
            spelled = str(parse_address(address))
            for name in names:
                found.setdefault(name.lower(), []).append(spelled)
    return found


def has_ipv6() -> bool:
    """True if this host has a route to the IPv6 internet."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.connect(("2606:4700:4700::1111", 53))  # no packet is sent
    except OSError:
        return False
    return True


class Resolver:
    """Resolves names at the given servers, and remembers the answers for a while.

    Each sandbox has its own, so that none can tell from the time it takes what others look up.
    """

    def __init__(
        self,
        servers: Sequence[Server],
        names: Mapping[str, Sequence[str]] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._servers = tuple(servers)
        self._names = names or {}
        self._clock = clock
        self._cache: OrderedDict[str, tuple[float, Resolution]] = OrderedDict()

    async def resolve(self, name: str) -> Resolution:
        """The addresses of `name`. Never raises: nobody's answer is `failed`."""
        if name in self._names:
            return Resolution(tuple(parse_address(text) for text in self._names[name]))
        if not self._servers:
            return Resolution(failed=True)
        known = self._cache.get(name)
        if known and known[0] > self._clock():
            return known[1]
        resolution, ttl = await self._ask(name)
        self._cache[name] = (self._clock() + ttl, resolution)
        self._cache.move_to_end(name)
        while len(self._cache) > _MOST_CACHED:
            self._cache.popitem(last=False)
        return resolution

    async def _ask(self, name: str) -> tuple[Resolution, float]:
        kinds = [dns.rdatatype.A, dns.rdatatype.AAAA] if has_ipv6() else [dns.rdatatype.A]
        answers: dict[dns.rdatatype.RdataType, dns.message.Message | None] = {}

        async def one(kind: dns.rdatatype.RdataType) -> None:
            answers[kind] = await self._exchange(name, kind)

        async with anyio.create_task_group() as questions:
            for kind in kinds:
                questions.start_soon(one, kind)
        return _read(name, [(kind, answers[kind]) for kind in kinds])

    async def _exchange(
        self, name: str, kind: dns.rdatatype.RdataType
    ) -> dns.message.Message | None:
        """The first usable answer of any server, or None."""
        query = dns.message.make_query(name, kind, use_edns=0, payload=1232)
        with anyio.move_on_after(ALL_ATTEMPTS_SECONDS):
            for server in self._servers * 2:
                with suppress(OSError, dns.exception.DNSException):
                    with anyio.fail_after(ATTEMPT_SECONDS):
                        answer = await _ask_udp(query, server)
                    if answer.flags & dns.flags.TC:
                        with anyio.fail_after(ATTEMPT_SECONDS):
                            answer = await _ask_tcp(query, server)
                    if answer.rcode() in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
                        return answer
        return None


async def _ask_udp(query: dns.message.Message, server: Server) -> dns.message.Message:
    family = socket.AF_INET if server[0].version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        sock.connect((str(server[0]), server[1]))  # the kernel drops what others send
        sock.send(query.to_wire())
        while True:
            data = await receive(sock, _MOST_UDP)
            with suppress(dns.exception.DNSException):
                answer = dns.message.from_wire(data, ignore_trailing=True)
                if query.is_response(answer):
                    return answer


async def _ask_tcp(query: dns.message.Message, server: Server) -> dns.message.Message:
    with await dial(*server) as sock:
        wire = query.to_wire()
        await send_all(sock, len(wire).to_bytes(2, "big") + wire)
        data = await _exactly(sock, int.from_bytes(await _exactly(sock, 2), "big"))
    answer = dns.message.from_wire(data)
    if not query.is_response(answer):
        raise OSError("an answer to another question")
    return answer


async def _exactly(sock: socket.socket, count: int) -> bytes:
    data = b""
    if count > _MOST_TCP:
        raise OSError("the answer is too long")
    while len(data) < count:
        more = await receive(sock, count - len(data))
        if not more:
            raise OSError("the answer ends early")
        data += more
    return data


def _read(
    name: str,
    answers: list[tuple[dns.rdatatype.RdataType, dns.message.Message | None]],
) -> tuple[Resolution, float]:
    addresses: list[Address] = []
    exists, failed, ttl = True, True, _LONGEST_TTL
    for kind, answer in answers:
        if not isinstance(answer, dns.message.QueryMessage):
            continue
        failed = False
        if answer.rcode() == dns.rcode.NXDOMAIN:
            exists = False
            ttl = min(ttl, 10.0)
            continue
        try:
            chain = answer.resolve_chaining()
        except dns.exception.DNSException:
            continue
        if chain.answer is None:
            ttl = min(ttl, 30.0)
            continue
        ttl = min(ttl, float(chain.minimum_ttl))
        addresses += _addresses(chain.answer, kind)
    if failed:
        return Resolution(failed=True), _FAILURE_TTL
    found = tuple(addresses[:_MOST_ADDRESSES])
    return Resolution(found, exists or bool(found)), max(_SHORTEST_TTL, ttl)


def _addresses(rrset: dns.rrset.RRset, kind: dns.rdatatype.RdataType) -> list[Address]:
    if rrset.rdtype != kind:
        return []
    found: list[Address] = []
    for record in rrset:
        with suppress(ValueError):
            found.append(parse_address(str(ipaddress.ip_address(record.to_text()))))
    return found
