"""Sockets: families, the host's and the neighbour's loopback, metadata, interfaces, netlink."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct

from atoll.testing.attacks.probes.kit import (
    Facts,
    Outcome,
    broke,
    call,
    error_name,
    held,
    tokens_in,
    worst,
)

_UNIX, _INET, _INET6, _NETLINK = 1, 2, 10, 16
_METADATA = (
    *("169.254.169.254", "169.254.170.2", "169.254.170.23", "100.100.100.200", "192.0.0.192"),
    *("fd00:ec2::254", "::ffff:169.254.169.254", "168.63.129.16"),
)
# inet_aton(3) spellings of 169.254.169.254
_SPELLINGS = (
    "2852039166",
    "0xa9fea9fe",
    "0251.0376.0251.0376",
    "169.254.43518",
    "0xa9.254.0xa9.254",
)


def families(facts: Facts) -> Outcome:
    """Open a socket of every family, type and netlink protocol but the four allowed families."""
    del facts
    opened = []
    tried = 0
    for family in range(1, 47):
        if family in (_UNIX, _INET, _INET6, _NETLINK):
            continue
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW, socket.SOCK_SEQPACKET):
            tried += 1
            if _opens(family, kind, 0):
                opened.append(f"family {family} type {int(kind)}")
    for protocol in range(1, 23):  # 0 is NETLINK_ROUTE
        tried += 1
        if _opens(_NETLINK, socket.SOCK_RAW, protocol):
            opened.append(f"netlink protocol {protocol}")
    return broke("; ".join(opened)) if opened else held(f"{tried} kinds of socket, all refused")


def raw_sockets(facts: Facts) -> Outcome:
    """Open raw and packet sockets, with which packets could be forged."""
    del facts
    tried = [
        _refused_socket("raw IPv4", _INET, socket.SOCK_RAW, 255),
        _refused_socket("raw ICMP", _INET, socket.SOCK_RAW, 1),
        _refused_socket("raw IPv6", _INET6, socket.SOCK_RAW, 255),
        _refused_socket("packet", 17, socket.SOCK_RAW, 0x0300),
        _refused_socket("SCTP", _INET, socket.SOCK_SEQPACKET, 132),
        _refused_socket("DCCP", _INET, 6, 33),
    ]
    return worst(tried)


def _opens(family: int, kind: int, protocol: int) -> bool:
    try:
        socket.socket(family, kind, protocol).close()
    except OSError:
        return False
    return True


def _refused_socket(name: str, family: int, kind: int, protocol: int) -> Outcome:
    opened = _opens(family, kind, protocol)
    return Outcome(not opened, f"{name} {'opens' if opened else 'refused'}")


def connect(facts: Facts) -> Outcome:
    """Connect to the given ports by every spelling of loopback, over TCP and UDP."""
    hosts = ["127.0.0.1", "::1", "::ffff:127.0.0.1", "0.0.0.0", "::", "127.8.8.8", "localhost"]
    tried = []
    for host in [*hosts, *facts.get("addresses", ())]:
        for port in facts["ports"]:
            tried.append(_dial(host, port, socket.SOCK_STREAM, facts))
            tried.append(_dial(host, port, socket.SOCK_DGRAM, facts))
    return worst(tried)


def _dial(host: str, port: int, kind: int, facts: Facts) -> Outcome:
    name = f"{'tcp' if kind == socket.SOCK_STREAM else 'udp'} {host} {port}"
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, kind) as client:
        client.settimeout(0.5)
        try:
            client.connect((host, port))
            client.sendall(b"hello")
            data = client.recv(4096)
        except OSError as error:
            return held(f"{name}: {error_name(error.errno or 0)}")
    # Our own sandbox may have something on such a port: only a token proves another's server.
    found = tokens_in(data, facts)
    return broke(f"{name} answers with {found}") if found else held(f"{name}: nothing foreign")


def leave_the_machine(facts: Facts) -> Outcome:
    """Send to metadata services, name servers and the internet; nothing may even find a route."""
    targets = [(host, 80) for host in (*_METADATA, *_SPELLINGS)]
    targets += [(host, 53) for host in ("1.1.1.1", "8.8.8.8", "2001:4860:4860::8888")]
    targets += [(host, 53) for host in facts.get("name_servers", ())]
    targets += [(host, 443) for host in ("10.0.0.1", "172.17.0.1", "192.168.0.1", "100.64.0.1")]
    targets += [(host, 22) for host in facts.get("addresses", ())]
    tried = []
    for host, port in targets:
        tried.append(_route(host, port, socket.SOCK_STREAM))
        tried.append(_route(host, port, socket.SOCK_DGRAM))
    return worst(tried)


def _route(host: str, port: int, kind: int) -> Outcome:
    name = f"{host}:{port}"
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, kind) as client:
        client.settimeout(0.5)
        try:
            client.connect((host, port))
            client.send(b"hello")
        except (TimeoutError, ConnectionError) as error:
            # A refusal or silence came from somewhere: a packet left.
            return broke(f"{name}: a packet left ({type(error).__name__})")
        except OSError as error:
            return held(f"{name}: {error_name(error.errno or 0)}")
    return broke(f"{name} can be reached")


def resolve(facts: Facts) -> Outcome:
    """Ask for names: an answer for a foreign name would be a tunnel out."""
    names = ["example.com", "metadata.google.internal", "atoll-attack.example.com"]
    tried = []
    for name in facts.get("resolve", names):
        try:
            answer = socket.getaddrinfo(name, 80)
        except OSError as error:
            tried.append(held(f"{name}: {error}"))
            continue
        tried.append(broke(f"{name} is {answer[0][4]}"))
    return worst(tried)


def abstract_sockets(facts: Facts) -> Outcome:
    """Connect to abstract unix sockets: those named, and all that /proc/net/unix shows."""
    names = list(facts["abstract"])
    with open("/proc/net/unix") as table:
        names += [line.split()[7][1:] for line in table.readlines()[1:] if "@" in line]
    reached = []
    for name in names:
        for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET, socket.SOCK_DGRAM):
            with socket.socket(socket.AF_UNIX, kind) as client:
                client.settimeout(0.5)
                try:
                    client.connect("\0" + name)
                except OSError:
                    continue
                reached.append(name)
    return broke(f"reached {reached}") if reached else held(f"{len(names)} names, none answers")


def interfaces(facts: Facts) -> Outcome:
    """Look for interfaces besides loopback, then change loopback and add devices and routes."""
    del facts
    names = [name for _, name in socket.if_nameindex()]
    tried = [Outcome(names in (["lo"], []), f"interfaces {names}")]
    tried.append(_ioctl("SIOCSIFADDR", 0x8916, b"lo", b"\x02\0\0\0\x0a\x09\x08\x07"))
    tried.append(_ioctl("SIOCSIFFLAGS", 0x8914, b"lo", struct.pack("H", 0x49)))
    tried.append(
        _netlink("a dummy device", 16, struct.pack("BxHiII", 0, 0, 0, 0, 0) + _link_info())
    )
    address = struct.pack("BBBBI", 2, 32, 0, 0, 1) + struct.pack("HH4B", 8, 2, 10, 9, 8, 6)
    tried.append(_netlink("an address", 20, address))
    route = struct.pack("8BI", 2, 0, 0, 0, 254, 3, 253, 1, 0) + struct.pack("HHI", 8, 4, 1)
    tried.append(_netlink("a route", 24, route))
    return worst(tried)


def _link_info() -> bytes:
    kind = struct.pack("HH", 10, 1) + b"dummy\0\0\0"
    return struct.pack("HH", 4 + len(kind), 18) + kind


def _ioctl(name: str, request: int, device: bytes, value: bytes) -> Outcome:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        try:
            fcntl.ioctl(control, request, struct.pack("16s24s", device, value))
        except OSError as error:
            refused = error.errno in (errno.EPERM, errno.EACCES)
            return Outcome(refused, f"{name}: {error_name(error.errno or 0)}")
    return broke(f"{name} was accepted")


def _netlink(name: str, message: int, body: bytes) -> Outcome:
    """One rtnetlink(7) request with NLM_F_REQUEST|ACK|CREATE|EXCL; its acknowledgement decides."""
    flags = 0x1 | 0x4 | 0x400 | 0x200
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as link:
        link.settimeout(2)
        link.bind((0, 0))
        link.send(struct.pack("IHHII", 16 + len(body), message, flags, 1, os.getpid()) + body)
        answer = link.recv(65536)
    code = -struct.unpack_from("i", answer, 16)[0]
    if code in (errno.EPERM, errno.EACCES):
        return held(f"{name}: {error_name(code)}")
    return broke(f"{name}: {'made' if code == 0 else error_name(code)}")


def ipc(facts: Facts) -> Outcome:
    """Look for the host's and the neighbour's System V shared memory, and read it."""
    found = []
    with open("/proc/sysvipc/shm") as table:
        foreign = [int(line.split()[1]) for line in table.readlines()[1:]]
    for identifier in foreign:
        found.append(f"segment {identifier} is listed")
    for key in facts["keys"]:
        value, _ = call("shmget", key, 0, 0)
        if value >= 0:
            found.append(f"segment with key {key:#x} opens")
    return broke("; ".join(found)) if found else held("no segment of another")
