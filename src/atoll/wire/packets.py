"""JSON packets with descriptors over a SOCK_SEQPACKET socket, between trusted processes of ours."""

from __future__ import annotations

import array
import json
import os
import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Packet = dict[str, Any]

MAX_PACKET = 200_000
MAX_DESCRIPTORS = 16


def encode(packet: Packet) -> bytes:
    """The bytes of a packet. Raises ValueError if it is too long to be sent as one."""
    data = json.dumps(packet).encode()
    if len(data) > MAX_PACKET:
        raise ValueError(f"a packet of {len(data)} bytes is longer than {MAX_PACKET}")
    return data


def send(sock: socket.socket, packet: Packet, fds: tuple[int, ...] | list[int] = ()) -> None:
    """Send one packet; the descriptors stay the caller's."""
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    sock.sendmsg([encode(packet)], rights)


def receive(sock: socket.socket) -> tuple[Packet | None, list[int]]:
    """The next packet (None at end of file) and its descriptors, now the caller's."""
    # Its true length first: a buffer for the longest one would be mapped and unmapped each time.
    size = min(sock.recv_into(bytearray(1), 1, socket.MSG_PEEK | socket.MSG_TRUNC), MAX_PACKET)
    data, ancillary, flags, _ = sock.recvmsg(
        size or 1, socket.CMSG_SPACE(4 * MAX_DESCRIPTORS), socket.MSG_CMSG_CLOEXEC
    )
    fds: list[int] = []
    for level, kind, body in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            numbers = array.array("i")
            numbers.frombytes(body[: len(body) - len(body) % numbers.itemsize])
            fds.extend(numbers)
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        for fd in fds:
            os.close(fd)
        raise ValueError("a packet was truncated")
    return (json.loads(data) if data else None), fds
