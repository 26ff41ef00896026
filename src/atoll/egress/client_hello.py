"""Reads the server's name from a TLS ClientHello (RFC 8446 4.1.2, RFC 6066 3), strictly."""

from __future__ import annotations

from dataclasses import dataclass

from atoll.model.hostnames import parse_hostname

MAX_HELLO = 32_768
_HANDSHAKE = 22
_CLIENT_HELLO = 1
_MAX_RECORD = 16_384
_SERVER_NAME = 0
_ENCRYPTED_HELLO = 0xFE0D


class Malformed(ValueError):
    """These bytes could be read in more than one way, or in none."""


@dataclass(frozen=True)
class ClientHello:
    """What a ClientHello says in the open.

    Attributes:
        name: the server's name, or None.
        encrypted: it carries another ClientHello that nobody on the way can read, or pretends to.
    """

    name: str | None
    encrypted: bool


class _Reader:
    """Takes fields from the front; every length has to fit."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def take(self, count: int) -> bytes:
        if count > self.left:
            raise Malformed("a length in the ClientHello is wrong")
        self._at += count
        return self._data[self._at - count : self._at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def vector(self, size: int, least: int, most: int) -> bytes:
        """What follows a length of `size` bytes."""
        length = self.number(size)
        if not least <= length <= most:
            raise Malformed("a length in the ClientHello is out of bounds")
        return self.take(length)


def read_client_hello(data: bytes) -> ClientHello | None:
    """The ClientHello at the front of a connection; None while more bytes are needed.

    Raises:
        Malformed: `data` cannot become a ClientHello of at most MAX_HELLO bytes.
    """
    handshake = _handshake(data)
    if handshake is None:
        if len(data) > MAX_HELLO:
            raise Malformed("the ClientHello is too long")
        return None
    reader = _Reader(handshake)
    reader.take(2 + 32)  # version, random
    reader.vector(1, 0, 32)  # session
    suites = reader.vector(2, 2, 65_534)
    if len(suites) % 2:
        raise Malformed("half a cipher suite")
    reader.vector(1, 1, 255)  # compression
    if not reader.left:
        return ClientHello(None, False)
    extensions = reader.vector(2, 0, 65_535)
    if reader.left:
        raise Malformed("bytes after the extensions")
    return _extensions(extensions)


def _handshake(data: bytes) -> bytes | None:
    """The body of the first handshake message, from as many records as it takes."""
    message = b""
    at = 0
    while True:
        header = data[at : at + 5]
        # As soon as a byte is wrong: what is no TLS need not be waited for.
        if header[:1] not in (b"", bytes([_HANDSHAKE])) or header[1:2] not in (b"", b"\x03"):
            raise Malformed("not a TLS handshake")
        if len(header) < 5:
            return None
        length = int.from_bytes(header[3:5], "big")
        if header[2] > 4 or not 0 < length <= _MAX_RECORD:
            raise Malformed("not a TLS record")
        message += data[at + 5 : at + 5 + length]
        if message[0:1] not in (b"", bytes([_CLIENT_HELLO])):
            raise Malformed("not a ClientHello")
        if len(message) >= 4:
            size = int.from_bytes(message[1:4], "big")
            if size > MAX_HELLO:
                raise Malformed("the ClientHello is too long")
            if len(message) >= 4 + size:
                if len(message) > 4 + size:
                    raise Malformed("a second message after the ClientHello")
                return message[4:]
        if len(data) < at + 5 + length:
            return None
        at += 5 + length


def _extensions(data: bytes) -> ClientHello:
    reader = _Reader(data)
    seen: set[int] = set()
    name = None
    while reader.left:
        kind = reader.number(2)
        body = reader.vector(2, 0, 65_535)
        if kind in seen:
            raise Malformed("an extension twice")
        seen.add(kind)
        if kind == _SERVER_NAME:
            name = _server_name(body)
    return ClientHello(name, _ENCRYPTED_HELLO in seen)


def _server_name(body: bytes) -> str:
    outer = _Reader(body)
    entries = _Reader(outer.vector(2, 1, 65_535))
    if outer.left or entries.number(1) != 0:
        raise Malformed("a server name that is no host name")
    raw = entries.vector(2, 1, 255)
    if entries.left:
        raise Malformed("two server names")
    try:
        return parse_hostname(raw.decode("ascii"))
    except ValueError as error:
        raise Malformed(f"a server name that is no host name: {error}") from None
