"""Opens TCP connections to addresses that were decided on before."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Sequence

import anyio

from atoll.egress.addresses import Address

ATTEMPT_SECONDS = 10.0
MOST_ADDRESSES = 4


def is_of_host(address: Address) -> bool:
    """True if `address` is one of this host's own: the kernel would answer it from itself."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((str(address), 9))  # no packet is sent
        except OSError:
            return False
        return bool(probe.getsockname()[0] == str(address))


async def dial(address: Address, port: int) -> socket.socket:
    """A connected, non-blocking socket. Raises OSError (TimeoutError after ATTEMPT_SECONDS)."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        with anyio.fail_after(ATTEMPT_SECONDS):
            code = sock.connect_ex((str(address), port))
            if code == errno.EINPROGRESS:
                await anyio.wait_writable(sock)
                code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))
        prepare(sock)
    except BaseException:
        sock.close()
        raise
    return sock


def prepare(sock: socket.socket) -> None:
    """What every socket of a relayed connection has."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


async def dial_first(addresses: Sequence[Address], port: int) -> tuple[socket.socket, Address]:
    """The first of `addresses` that answers. Raises OSError, the last one's."""
    last: OSError = OSError(errno.EHOSTUNREACH, "no address")
    for address in addresses[:MOST_ADDRESSES]:
        try:
            return await dial(address, port), address
        except OSError as error:
            last = error
    raise last
