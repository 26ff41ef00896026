"""Requests to the kernel in the bytes of netlink(7), and its answers.

Interpreter's modules only: it runs in bare processes, which have no libraries.
Source: <linux/netlink.h>, <linux/rtnetlink.h>, <linux/netfilter/nfnetlink.h>.
"""

from __future__ import annotations

import os
import socket
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

ROUTE, NETFILTER = 0, 12
CREATE, EXCLUSIVE, REPLACE, APPEND = 0x400, 0x200, 0x100, 0x800
_REQUEST, _ACK = 1, 4
_NESTED = 0x8000
_ERROR = 2
_BATCH_BEGIN, _BATCH_END = 16, 17
_NFTABLES = 10
_HEADER = struct.Struct("=IHHII")
_PATIENCE_SECONDS = 5


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded."""
    length = 4 + len(value)
    return struct.pack("=HH", length, kind) + value + b"\0" * (-length % 4)


def nested(kind: int, *attributes: bytes) -> bytes:
    """An attribute made of attributes."""
    return attribute(kind | _NESTED, b"".join(attributes))


def text(kind: int, value: str) -> bytes:
    """An attribute that holds a name."""
    return attribute(kind, value.encode() + b"\0")


def message(kind: int, body: bytes, flags: int = 0) -> tuple[int, int, bytes]:
    """A request as `ask` and `batch` take it."""
    return kind, flags, body


def nftables(kind: int, family: int, *attributes: bytes, flags: int = 0) -> tuple[int, int, bytes]:
    """A request to nf_tables, for `batch`."""
    body = struct.pack("=BBH", family, 0, 0) + b"".join(attributes)
    return _NFTABLES << 8 | kind, flags, body


def ask(*messages: tuple[int, int, bytes]) -> None:
    """Send rtnetlink requests of this network namespace. Raises OSError as the kernel answered."""
    _exchange(ROUTE, b"".join(_numbered(messages, 1)), len(messages))


def batch(*messages: tuple[int, int, bytes]) -> None:
    """Do all of it in nf_tables, or nothing. Raises OSError as the kernel answered."""
    bound = struct.pack("=BB", 0, 0) + struct.pack(">H", _NFTABLES)
    parts = [
        _frame(_BATCH_BEGIN, _REQUEST, 0, bound),
        *_numbered(messages, 1),
        _frame(_BATCH_END, _REQUEST, len(messages) + 1, bound),
    ]
    _exchange(NETFILTER, b"".join(parts), len(messages))


def _numbered(messages: Sequence[tuple[int, int, bytes]], first: int) -> list[bytes]:
    return [
        _frame(kind, _REQUEST | _ACK | flags, number, body)
        for number, (kind, flags, body) in enumerate(messages, first)
    ]


def _frame(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    framed = _HEADER.pack(_HEADER.size + len(body), kind, flags, sequence, 0) + body
    return framed + b"\0" * (-len(framed) % 4)


def _exchange(protocol: int, request: bytes, last: int) -> None:
    """Send it all, and wait until each of the messages 1 to `last` is acknowledged."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol) as sock:
        sock.settimeout(_PATIENCE_SECONDS)
        sock.send(request)
        missing = set(range(1, last + 1))
        while missing:
            missing -= _acknowledged(sock.recv(1 << 16))


def _acknowledged(data: bytes) -> set[int]:
    """The sequence numbers of the acknowledgements in it; raises for the first refusal."""
    found = set()
    while data:
        length, kind, _, sequence, _ = _HEADER.unpack_from(data)
        if kind == _ERROR:
            (code,) = struct.unpack_from("=i", data, _HEADER.size)
            if code:
                raise OSError(-code, f"request {sequence}: {os.strerror(-code)}")
            found.add(sequence)
        data = data[(length + 3) & ~3 :]
    return found
