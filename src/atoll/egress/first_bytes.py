"""What the first bytes of a client say about whom it wants to talk to: the one parser of them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from atoll.egress.addresses import Address
from atoll.egress.client_hello import Malformed, read_client_hello
from atoll.egress.http_head import read_request_head

MAX_FIRST_BYTES = 32_768
_TOKEN_BYTE = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]")
_BINARY = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_LIKE_REQUEST = re.compile(rb"[A-Za-z]+[ \t]")

Kind = Literal["tls", "http", "connect", "other"]


@dataclass(frozen=True)
class Said:
    """Whom a client names.

    Attributes:
        kind: the protocol; "connect" asks an HTTP proxy for a tunnel.
        host: the name or address that it says, or None.
        hidden: there may be another name that cannot be seen (encrypted ClientHello).
    """

    kind: Kind
    host: str | Address | None = None
    hidden: bool = False


def read_first_bytes(data: bytes) -> Said | None:
    """What `data`, the first bytes of a client, say; None while more are needed.

    Raises:
        Malformed: they begin as TLS or HTTP/1 does and are not, or could be read in two ways.
    """
    if not data:
        return None
    if data[0] == 0x16:
        hello = read_client_hello(data)
        return None if hello is None else Said("tls", hello.name, hello.encrypted)
    if data[:1] in b"\r\n":
        raise Malformed("an empty line, which some servers skip")
    if not _TOKEN_BYTE.match(data):
        return Said("other")
    line, newline, _ = data.partition(b"\n")
    if re.search(rb"(?i)HTTP/", line) and newline:
        return _request(data)
    if _BINARY.search(line):
        if _LIKE_REQUEST.match(line):
            raise Malformed("a control byte in what begins as a request")
        return Said("other")
    if newline:
        return Said("other")
    if len(data) > MAX_FIRST_BYTES:
        raise Malformed("a first line without an end")
    return None


def _request(data: bytes) -> Said | None:
    head = read_request_head(data)
    if head is None:
        return None
    kind: Kind = "connect" if head.method == b"CONNECT" else "http"
    return Said(kind, None if head.authority is None else head.authority.host)
