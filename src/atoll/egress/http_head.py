"""Reads the head of an HTTP/1 request (RFC 9112), strictly: one reading or none."""

from __future__ import annotations

import re
from dataclasses import dataclass

from atoll.egress.addresses import Address, parse_address
from atoll.egress.client_hello import Malformed
from atoll.model.hostnames import parse_hostname

MAX_HEAD = 32_768
MAX_HEADERS = 200
_END = b"\r\n\r\n"
_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_REQUEST_LINE = re.compile(rb"(" + _TOKEN + rb") ([\x21-\xff]+) HTTP/1\.([01])")
_NAME = re.compile(_TOKEN)
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:@/\[\]]+)(?::([0-9]{1,5}))?")


@dataclass(frozen=True)
class Authority:
    """A host, as a name or an address, and the port that was said with it."""

    host: str | Address
    port: int | None = None


@dataclass(frozen=True)
class RequestHead:
    """A request line and its headers, as they came.

    Attributes:
        method: in the client's spelling.
        target: in the form that was sent.
        minor: 0 or 1, of HTTP/1.
        headers: in order, names as they were spelled.
        authority: whom it is for, by target and Host, which agree; None if neither says so.
        size: bytes that the head takes, with the empty line.
    """

    method: bytes
    target: bytes
    minor: int
    headers: tuple[tuple[bytes, bytes], ...]
    authority: Authority | None
    size: int

    def values(self, name: bytes) -> list[bytes]:
        """The values of all headers called `name` (lower case)."""
        return [value for key, value in self.headers if key.lower() == name]

    @property
    def body_length(self) -> int | None:
        """Bytes of the body; None if it comes in chunks. Raises Malformed."""
        lengths = self.values(b"content-length")
        codings = self.values(b"transfer-encoding")
        if codings:
            if lengths or self.minor == 0 or [c.lower() for c in codings] != [b"chunked"]:
                raise Malformed("a body with more than one end")
            return None
        if not lengths:
            return 0
        if len(lengths) > 1 or not re.fullmatch(rb"[0-9]{1,18}", lengths[0]):
            raise Malformed("a body with more than one length")
        return int(lengths[0])


def read_request_head(data: bytes) -> RequestHead | None:
    """The request at the front of `data`; None while more bytes are needed.

    Raises:
        Malformed: it is no request of HTTP/1, is too long, or names two hosts.
    """
    end = data.find(_END)
    if end < 0:
        if len(data) > MAX_HEAD:
            raise Malformed("the request's head is too long")
        if re.search(rb"(?<!\r)\n|\r[^\n]|\x00", data):
            raise Malformed("a line of the request ends in another way than CRLF")
        return None
    if end > MAX_HEAD:
        raise Malformed("the request's head is too long")
    lines = data[:end].split(b"\r\n")
    if len(lines) > MAX_HEADERS:
        raise Malformed("the request has too many headers")
    request = _REQUEST_LINE.fullmatch(lines[0])
    if request is None:
        raise Malformed("not a request line")
    method, target, minor = request.groups()
    headers = tuple(_header(line) for line in lines[1:])
    head = RequestHead(
        method, target, int(minor), headers, _authority(method, target, headers, minor),
        end + len(_END),
    )  # fmt: skip
    head.body_length  # noqa: B018 (raises for what is read in two ways)
    return head


def _header(line: bytes) -> tuple[bytes, bytes]:
    name, colon, value = line.partition(b":")
    if not (colon and _NAME.fullmatch(name)) or _CONTROL.search(value):
        raise Malformed("not a header")
    return name, value.strip(b" \t")


def _authority(
    method: bytes, target: bytes, headers: tuple[tuple[bytes, bytes], ...], minor: bytes
) -> Authority | None:
    hosts = [value for key, value in headers if key.lower() == b"host"]
    if len(hosts) > 1 or (not hosts and minor == b"1"):
        raise Malformed("a request has one Host")
    said = read_authority(hosts[0]) if hosts else None
    named = None
    if method == b"CONNECT":
        named = read_authority(target)
        if named.port is None:
            raise Malformed("CONNECT without a port")
    elif absolute := re.match(rb"(?i)(?:https?|wss?)://([^/?#]*)", target):
        named = read_authority(absolute[1])
    elif not target.startswith(b"/") and target != b"*":
        raise Malformed("a request target in no known form")
    if named and said and named.host != said.host:
        raise Malformed("the request's target and its Host differ")
    return named or said


def read_authority(raw: bytes) -> Authority:
    """The host and port of ``host[:port]``. Raises Malformed."""
    try:
        match = _AUTHORITY.fullmatch(raw.decode("ascii"))
        if match is None:
            raise ValueError("not host:port")
        host, digits = match.groups()
        port = int(digits) if digits else None
        if port is not None and not 0 < port < 65536:
            raise ValueError("no port")
        return Authority(_host(host), port)
    except ValueError as error:
        raise Malformed(f"no host: {error}") from None


def _host(text: str) -> str | Address:
    if text.startswith("["):
        return parse_address(text[1:-1])
    try:
        return parse_address(text)
    except ValueError:
        return parse_hostname(text)
