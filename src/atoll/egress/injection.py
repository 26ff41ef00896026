"""Sets headers in the HTTPS requests of a sandbox, whose TLS ends here."""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass

import anyio
from anyio.abc import ByteStream
from anyio.streams.tls import TLSStream

from atoll.egress.client_hello import Malformed
from atoll.egress.http_head import RequestHead, read_request_head
from atoll.egress.meter import Tally
from atoll.egress.streams import pump
from atoll.model import HeaderRule

HANDSHAKE_SECONDS = 15.0
_HTTPS = 443
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*;[\x20-\x7e\t]*)?")
_MOST_LINE = 4096
_MOST_TRAILER = 8192


@dataclass(frozen=True)
class Injection:
    """What is done to the requests of one connection.

    Attributes:
        name: the host that the connection is for; a request for another one ends it.
        rule: what is set.
        context: answers in the host's name.
        trust: whom the real host's certificate must be signed by.
    """

    name: str
    rule: HeaderRule
    context: ssl.SSLContext
    trust: ssl.SSLContext


async def relay(client: ByteStream, server: ByteStream, injection: Injection, tally: Tally) -> None:
    """Speak TLS with both, and pass requests on with their headers set.

    Raises:
        Malformed, BrokenResourceError, EndOfStream, SSLError, TimeoutError.
    """
    with anyio.fail_after(HANDSHAKE_SECONDS):
        # The real host first: only one that proves its name is ever sent a secret.
        far = await TLSStream.wrap(
            server,
            hostname=injection.name,
            ssl_context=injection.trust,
            standard_compatible=False,
        )
        near = await TLSStream.wrap(
            client, server_side=True, ssl_context=injection.context, standard_compatible=False
        )
    async with anyio.create_task_group() as ways:
        ways.start_soon(_answers, far, near, tally, ways.cancel_scope)
        requests = _Requests(near, far, injection, tally)
        while await requests.pass_on():
            pass


async def _answers(
    far: ByteStream, near: ByteStream, tally: Tally, scope: anyio.CancelScope
) -> None:
    await pump(far, near, "in", tally)
    scope.cancel()  # the host has ended it: no further request can be answered


class _Requests:
    """The requests of a client, one after the other."""

    def __init__(
        self, near: ByteStream, far: ByteStream, injection: Injection, tally: Tally
    ) -> None:
        self._near = near
        self._far = far
        self._injection = injection
        self._tally = tally
        self._data = b""

    async def pass_on(self) -> bool:
        """Pass the next request on; False at the end of the client's."""
        head = await self._head()
        if head is None:
            return False
        self._check(head)
        length = head.body_length
        await self._send(rewrite(head, self._injection.rule))
        if head.values(b"upgrade"):
            # What follows may be no HTTP: it goes on as it is, without any header set.
            await self._send(self._data)
            self._data = b""
            await pump(self._near, self._far, "out", self._tally)
            return False
        if length is None:
            await self._chunks()
        else:
            await self._body(length)
        return True

    def _check(self, head: RequestHead) -> None:
        authority = head.authority
        if head.method == b"CONNECT" or authority is None:
            raise Malformed("a request for no host")
        if authority.host != self._injection.name or authority.port not in (None, _HTTPS):
            # A host that serves several names would show the headers to another one.
            raise Malformed("a request for another host than the connection's")

    async def _head(self) -> RequestHead | None:
        while True:
            head = read_request_head(self._data) if self._data else None
            if head is not None:
                self._data = self._data[head.size :]
                return head
            if not await self._more():
                if self._data:
                    raise Malformed("a request ends early")
                return None

    async def _more(self) -> bool:
        try:
            self._data += await self._near.receive(65536)
        except anyio.EndOfStream:
            return False
        return True

    async def _body(self, length: int) -> None:
        while length:
            if not self._data and not await self._more():
                raise Malformed("a body ends early")
            part, self._data = self._data[:length], self._data[length:]
            length -= len(part)
            await self._send(part)

    async def _line(self) -> bytes:
        """The next line, without its end."""
        while b"\n" not in self._data:
            if len(self._data) > _MOST_LINE or not await self._more():
                raise Malformed("a line of a body has no end")
        line, _, self._data = self._data.partition(b"\n")
        if not line.endswith(b"\r") or b"\r" in line[:-1] or len(line) > _MOST_LINE:
            raise Malformed("a line of a body ends in another way than CRLF")
        return line[:-1]

    async def _chunks(self) -> None:
        while True:
            match = _CHUNK_LINE.fullmatch(await self._line())
            if match is None:
                raise Malformed("not a chunk")
            size = int(match[1], 16)
            await self._send(b"%x\r\n" % size)
            if not size:
                break
            await self._body(size)
            if await self._line():
                raise Malformed("a chunk is longer than it says")
            await self._send(b"\r\n")
        # Trailers are dropped: some servers take them for headers.
        seen = 0
        while line := await self._line():
            seen += len(line)
            if seen > _MOST_TRAILER:
                raise Malformed("the trailers are too long")
        await self._send(b"\r\n")

    async def _send(self, data: bytes) -> None:
        if data:
            await self._far.send(data)
            await self._tally.spend(len(data), "out")


def rewrite(head: RequestHead, rule: HeaderRule) -> bytes:
    """The head as it goes on: the rule's headers set, placeholders in others replaced."""
    ours = {name.lower().encode() for name in rule.headers}
    swaps = [(text.encode(), secret.encode()) for text, secret in rule.placeholders.items()]
    lines = [b"%s %s HTTP/1.%d" % (head.method, head.target, head.minor)]
    for name, value in head.headers:
        if name.lower() in ours:
            continue
        for text, secret in swaps:
            value = value.replace(text, secret)
        lines.append(name + b": " + value)
    lines += [f"{name}: {value}".encode() for name, value in rule.headers.items()]
    return b"\r\n".join(lines) + b"\r\n\r\n"
