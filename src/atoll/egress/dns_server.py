"""Answers a sandbox's name questions (RFC 1035): one synthetic address for each open name."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import anyio
import anyio.abc
import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.reversename
import dns.rrset

from atoll.egress.meter import Bucket
from atoll.egress.streams import receive, send_all
from atoll.egress.synthetic import SYNTHETIC_NETWORK, SyntheticNames
from atoll.model.hostnames import parse_hostname

TTL_SECONDS = 60
MAX_QUERY = 512
"""One question, its header and an OPT record take less than 300 bytes."""

QUERIES_A_SECOND = 100.0
_BURST = 300.0
_AT_ONCE = 64
_TCP_CONNECTIONS = 8
_TCP_SECONDS = 10.0
_QUERIES_A_CONNECTION = 100

Exists = Callable[[str], Awaitable[bool | None]]
"""Whether a name may be reached: True, False (no such name), or None (nobody could say)."""


@dataclass
class DnsCounts:
    """Questions of one sandbox."""

    answered: int = 0
    dropped: int = 0


class DnsServer:
    """The name server of one sandbox."""

    def __init__(self, names: SyntheticNames, exists: Exists, bucket: Bucket | None = None) -> None:
        self._names = names
        self._exists = exists
        self._bucket = bucket or Bucket(QUERIES_A_SECOND, _BURST)
        self._at_once = 0
        self.counts = DnsCounts()

    async def answer(self, data: bytes) -> bytes | None:
        """The answer to one question; None for what gets none."""
        if not 12 <= len(data) <= MAX_QUERY or not self._bucket.try_take():
            self.counts.dropped += 1
            return None
        try:
            query = dns.message.from_wire(data)
        except (dns.exception.DNSException, ValueError):
            self.counts.dropped += 1
            return None
        if query.flags & dns.flags.QR:
            self.counts.dropped += 1
            return None
        response = dns.message.make_response(query, recursion_available=True, our_payload=1232)
        response.set_rcode(await self._fill(query, response))
        self.counts.answered += 1
        return response.to_wire(max_size=MAX_QUERY * 2)

    async def _fill(
        self, query: dns.message.Message, response: dns.message.Message
    ) -> dns.rcode.Rcode:
        """Put what is known into `response`; its code."""
        if query.opcode() != dns.opcode.QUERY or len(query.question) != 1:
            return dns.rcode.NOTIMP
        question = query.question[0]
        if question.rdclass != dns.rdataclass.IN:
            return dns.rcode.REFUSED
        try:
            name = parse_hostname(question.name.to_text(omit_final_dot=True))
        except ValueError:
            return dns.rcode.NXDOMAIN
        if question.rdtype == dns.rdatatype.PTR:
            return self._reverse(question, response)
        if name == "localhost":
            return _loopback(question, response)
        known = await self._exists(name)
        if known is None:
            return dns.rcode.SERVFAIL
        if not known:
            if query.edns >= 0:
                response.use_edns(options=[dns.edns.EDEOption(dns.edns.EDECode.BLOCKED)])
            return dns.rcode.NXDOMAIN
        if question.rdtype == dns.rdatatype.A:
            # Other types have no answer: AAAA since the one address stands for both families,
            # HTTPS since its hints would lead past the name.
            address = str(self._names.address_of(name))
            response.answer.append(
                dns.rrset.from_text(question.name, TTL_SECONDS, "IN", "A", address)
            )
        return dns.rcode.NOERROR

    def _reverse(self, question: dns.rrset.RRset, response: dns.message.Message) -> dns.rcode.Rcode:
        try:
            address = ipaddress.ip_address(dns.reversename.to_address(question.name))
        except (dns.exception.DNSException, ValueError):
            return dns.rcode.NXDOMAIN
        name = self._names.name_of(address) if address in SYNTHETIC_NETWORK else None
        if name is None:
            return dns.rcode.NXDOMAIN
        response.answer.append(
            dns.rrset.from_text(question.name, TTL_SECONDS, "IN", "PTR", f"{name}.")
        )
        return dns.rcode.NOERROR

    async def serve_udp(self, sock: socket.socket) -> None:
        """Answer on a datagram socket, until cancelled."""
        async with anyio.create_task_group() as questions:
            while True:
                await anyio.wait_readable(sock)
                for _ in range(16):  # then the others' turn
                    try:
                        data, sender = sock.recvfrom(MAX_QUERY + 1)
                    except BlockingIOError:
                        break
                    except OSError:  # an ICMP error for an answer of before
                        continue
                    if self._at_once >= _AT_ONCE:
                        self.counts.dropped += 1
                        continue
                    self._at_once += 1
                    questions.start_soon(self._answer_datagram, sock, data, sender)

    async def _answer_datagram(self, sock: socket.socket, data: bytes, sender: Any) -> None:
        try:
            answer = await self.answer(data)
            if answer is not None:
                sock.sendto(answer, sender)
        except OSError:  # its buffer is full or it has gone: a datagram may be lost
            self.counts.dropped += 1
        finally:
            self._at_once -= 1

    async def serve_tcp(self, listener: socket.socket) -> None:
        """Answer on a listening socket, until cancelled."""
        free = anyio.Semaphore(_TCP_CONNECTIONS)
        async with anyio.create_task_group() as connections:
            while True:
                await free.acquire()
                try:
                    sock = await accept(listener)
                except OSError:
                    free.release()
                    await anyio.sleep(0.05)
                    continue
                connections.start_soon(self._answer_stream, sock, free)

    async def _answer_stream(self, sock: socket.socket, free: anyio.Semaphore) -> None:
        try:
            with sock, anyio.move_on_after(_TCP_SECONDS):
                for _ in range(_QUERIES_A_CONNECTION):
                    length = int.from_bytes(await _exactly(sock, 2), "big")
                    if length > MAX_QUERY:
                        return
                    answer = await self.answer(await _exactly(sock, length))
                    if answer is None:
                        return
                    await send_all(sock, len(answer).to_bytes(2, "big") + answer)
        except (OSError, EOFError):
            return  # it has gone
        finally:
            free.release()


async def accept(listener: socket.socket) -> socket.socket:
    """The next connection, non-blocking. Raises OSError when descriptors are used up."""
    while True:
        try:
            sock, _ = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            await anyio.wait_readable(listener)
            continue
        sock.setblocking(False)
        return sock


def _loopback(question: dns.rrset.RRset, response: dns.message.Message) -> dns.rcode.Rcode:
    if question.rdtype == dns.rdatatype.A:
        answer = dns.rrset.from_text(question.name, TTL_SECONDS, "IN", "A", "127.0.0.1")
        response.answer.append(answer)
    return dns.rcode.NOERROR


async def _exactly(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = await receive(sock, count - len(data))
        if not more:
            raise EOFError
        data += more
    return data
