"""A network as a sandbox has it: nothing but loopback, and TCP redirected to a listener.

Run with a descriptor: sends the listeners through it, then does what it is told and says what
came of it. Only the standard library: it stands for a guest.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import socket
import struct
import sys
from typing import Any

OWN, LISTENER = "10.0.0.2", "192.0.2.1"
DNS_PORT = 53
SECONDS = 5.0
_NEW_USER, _NEW_NET = 0x10000000, 0x40000000


def attribute(kind: int, value: bytes) -> bytes:
    length = 4 + len(value)
    return struct.pack("=HH", length, kind) + value + b"\0" * (-length % 4)


def nested(kind: int, *parts: bytes) -> bytes:
    return attribute(kind | 0x8000, b"".join(parts))


def number(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack(">i", value))


def expression(name: str, *parts: bytes) -> bytes:
    return nested(1, attribute(1, name.encode() + b"\0"), nested(2, *parts))


def message(kind: int, number_: int, flags: int, body: bytes) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, flags, number_, 0) + body


def redirect_tcp(port: int) -> None:
    """nft: type nat hook output; ip daddr != 127.0.0.0/8 tcp redirect to :port."""
    table = attribute(1, b"t\0")
    hook = nested(4, number(1, 3), number(2, -100))
    chain = table + attribute(3, b"out\0") + hook + attribute(7, b"nat\0")
    unequal = expression("cmp", number(1, 1), number(2, 1), nested(3, attribute(1, b"\x7f")))
    is_tcp = expression("cmp", number(1, 1), number(2, 0), nested(3, attribute(1, b"\6")))
    rule = nested(
        4,
        expression("meta", number(1, 1), number(2, 16)) + is_tcp,
        expression("payload", number(1, 1), number(2, 1), number(3, 16), number(4, 1)) + unequal,
        expression("immediate", number(1, 1), nested(2, attribute(1, struct.pack(">H", port)))),
        expression("redir", number(1, 1), number(2, 1)),
    )
    rule = table + attribute(2, b"out\0") + rule
    family, nft = struct.pack("=BBH", 2, 0, 0), 10 << 8
    bound = struct.pack("=BB", 0, 0) + struct.pack(">H", 10)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12) as sock:
        sock.settimeout(SECONDS)
        sock.send(
            message(16, 0, 1, bound)
            + message(nft, 1, 0x405, family + table)
            + message(nft | 3, 2, 0x405, family + chain)
            + message(nft | 6, 3, 0xC05, family + rule)
            + message(17, 4, 1, bound)
        )
        for _ in range(3):
            (code,) = struct.unpack_from("=i", sock.recv(65536), 16)
            if code:
                raise OSError(-code, os.strerror(-code))


def addresses() -> None:
    """Loopback up, with the sandbox's addresses and a route for everything."""
    with socket.socket() as sock:
        fcntl.ioctl(sock, 0x8914, struct.pack("16sH14x", b"lo", 1))
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as sock:
        for address in (OWN, LISTENER):
            packed = socket.inet_aton(address)
            body = struct.pack("=BBBBI", 2, 32, 0, 0, 1) + attribute(1, packed)
            sock.send(message(20, 1, 0x505, body + attribute(2, packed)))
            check(sock)
        body = struct.pack("=8BI", 2, 0, 0, 0, 254, 4, 253, 1, 0)
        body += attribute(4, struct.pack("=I", 1)) + attribute(7, socket.inet_aton(OWN))
        sock.send(message(24, 1, 0x505, body))
        check(sock)


def check(sock: socket.socket) -> None:
    (code,) = struct.unpack_from("=i", sock.recv(65536), 16)
    if code:
        raise OSError(-code, os.strerror(-code))


def listeners() -> list[socket.socket]:
    tcp = [socket.socket(), socket.socket()]
    tcp[0].bind(("0.0.0.0", 0))
    tcp[1].bind((LISTENER, DNS_PORT))
    for sock in tcp:
        sock.listen(1024)
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind((LISTENER, DNS_PORT))
    return [tcp[0], udp, tcp[1]]


def ask(name: str, seconds: float) -> str:
    """The address that the name server gives; the code if it gives none."""
    query = struct.pack(">HHHHHH", 7, 256, 1, 0, 0, 0)
    query += (
        b"".join(bytes([len(part)]) + part.encode() for part in name.split(".")) + b"\0\0\1\0\1"
    )
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(seconds)
        sock.sendto(query, (LISTENER, DNS_PORT))
        answer = sock.recv(4096)
    return socket.inet_ntoa(answer[-4:]) if not answer[3] & 15 else f"code {answer[3] & 15}"


def say(address: str, port: int, data: str) -> str:
    """What `address` answers."""
    with socket.create_connection((address, port), SECONDS) as sock:
        sock.sendall(data.encode())
        return sock.recv(65536).decode()


def obey(order: dict[str, Any]) -> str:
    try:
        if order["do"] == "ask":
            return ask(order["name"], order["seconds"])
        return say(order["address"], order["port"], order["data"])
    except OSError as error:
        return type(error).__name__


def main() -> None:
    control = socket.socket(fileno=int(sys.argv[1]))
    uid, gid = os.getuid(), os.getgid()
    if ctypes.CDLL(None).unshare(_NEW_USER | _NEW_NET):
        raise OSError("no user and network namespace")
    for name, line in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(line)
    addresses()
    made = listeners()
    redirect_tcp(made[0].getsockname()[1])
    socket.send_fds(control, [b"ready"], [sock.fileno() for sock in made])
    for sock in made:
        sock.close()
    while order := control.recv(65536):
        control.send(obey(json.loads(order)).encode())


if __name__ == "__main__":
    main()
