"""Asks the kernel for a NAT chain, in the bytes of netlink: the bare prober has no libraries.

Source: <linux/netlink.h>, <linux/netfilter/nfnetlink.h>, <linux/netfilter/nf_tables.h>.
"""

from __future__ import annotations

import os
import socket
import struct

_NETLINK_NETFILTER = 12
_BATCH_BEGIN, _BATCH_END = 16, 17
_NEW_TABLE, _NEW_CHAIN = 10 << 8, 10 << 8 | 3
_REQUEST, _ACK, _CREATE = 1, 4, 0x400
_IPV4 = 2
_NESTED = 0x8000
_ERROR = 2
_HEADER = struct.Struct("=IHHII")


def make_nat_chain() -> None:
    """Make one in this network namespace.

    It loads nf_tables, nft_chain_nat, nf_nat and nf_conntrack where they are modules.

    Raises:
        OSError: as the kernel answered.
    """
    hook = _attribute(1, struct.pack(">I", 3)) + _attribute(2, struct.pack(">i", -100))
    chain = (
        _attribute(1, b"probe\0")
        + _attribute(3, b"out\0")
        + _attribute(4 | _NESTED, hook)
        + _attribute(7, b"nat\0")
    )
    request = (
        _message(_BATCH_BEGIN, _REQUEST, 0, b"", resource=10)
        + _message(_NEW_TABLE, _REQUEST | _ACK | _CREATE, 1, _attribute(1, b"probe\0"))
        + _message(_NEW_CHAIN, _REQUEST | _ACK | _CREATE, 2, chain)
        + _message(_BATCH_END, _REQUEST, 3, b"", resource=10)
    )
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as sock:
        sock.settimeout(5)
        sock.send(request)
        answered: set[int] = set()
        while 2 not in answered:
            answered |= _read_answers(sock.recv(65536))


def _read_answers(data: bytes) -> set[int]:
    """The sequence numbers that were acknowledged; raises for the first that was refused."""
    found = set()
    while data:
        length, kind, _, sequence, _ = _HEADER.unpack_from(data)
        if kind == _ERROR:
            (code,) = struct.unpack_from("=i", data, _HEADER.size)
            if code:
                raise OSError(-code, f"netfilter: {os.strerror(-code)}")
            found.add(sequence)
        data = data[(length + 3) & ~3 :]
    return found


def _attribute(kind: int, value: bytes) -> bytes:
    length = 4 + len(value)
    return struct.pack("=HH", length, kind) + value + b"\0" * (-length % 4)


def _message(kind: int, flags: int, sequence: int, body: bytes, *, resource: int = 0) -> bytes:
    family = 0 if resource else _IPV4
    content = struct.pack("=BB", family, 0) + struct.pack(">H", resource) + body
    return _HEADER.pack(_HEADER.size + len(content), kind, flags, sequence, 0) + content
