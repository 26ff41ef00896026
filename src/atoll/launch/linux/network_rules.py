"""What makes a sandbox's network namespace lead nowhere but to the listeners that the host made.

All of it hangs on loopback: there is no device, and no packet ever leaves the namespace. The
sandbox has an address and a route for everything; TCP connections and questions for names are
turned to the listeners (dnat), and whatever else would go anywhere is refused.

Interpreter's modules only. Source: <linux/netfilter/nf_tables.h>, nft(8), rtnetlink(7).
"""

from __future__ import annotations

import socket
import struct

from atoll.launch.linux import netlink

OWN_ADDRESS = "10.0.0.2"
"""What programs in the sandbox see as their own address."""

LISTENER_ADDRESS = "192.0.2.1"
"""Of TEST-NET-1 (RFC 5737): nobody needs to reach the real one. It is the name server as well."""

TCP_PORT, DNS_PORT = 1, 2
"""The listeners': so low that no program inside asks for them on all addresses."""

_TABLE = "atoll"
_NEW_TABLE, _DELETE_TABLE, _NEW_CHAIN, _NEW_RULE = 0, 2, 3, 6
_IPV4, _IPV6 = 2, 10
_OUTPUT = 3
_NAT_PRIORITY, _FILTER_PRIORITY = -100, 0
_TURNED = 1 << 5  # IPS_DST_NAT: this connection's destination was changed by the nat chain
_EQUAL, _UNEQUAL = 0, 1
_ACCEPT, _DROP = 1, 0
_TCP, _UDP = 6, 17
_UNREACHABLE, _RESET = 0, 1
_REFUSED_BY_RULE, _REFUSED_BY_RULE_V6 = 13, 1  # ICMP codes: administratively prohibited


def install() -> None:
    """Install rules, then addresses, then the route: a packet meets the rules or finds no way.

    In this process's network namespace; what an earlier call installed is replaced.

    Raises:
        OSError: as the kernel answered.
    """
    try:
        netlink.batch(*_tables(replace=False))
    except FileExistsError:
        # Only here: the kernel takes some 10 ms to let go of a table.
        netlink.batch(*_tables(replace=True))
    loopback = socket.if_nametoindex("lo")
    netlink.ask(
        _address(loopback, OWN_ADDRESS), _address(loopback, LISTENER_ADDRESS), _route(loopback)
    )


def _address(device: int, address: str) -> tuple[int, int, bytes]:
    body = struct.pack("=BBBBI", socket.AF_INET, 32, 0, 0, device)
    packed = socket.inet_aton(address)
    body += netlink.attribute(1, packed) + netlink.attribute(2, packed)
    return netlink.message(20, body, netlink.CREATE | netlink.REPLACE)


def _route(device: int) -> tuple[int, int, bytes]:
    """Everything else: on loopback as well, from the sandbox's own address."""
    main_table, static, link_scope, unicast = 254, 4, 253, 1
    head = (socket.AF_INET, 0, 0, 0, main_table, static, link_scope, unicast, 0)
    body = struct.pack("=8BI", *head)
    body += netlink.attribute(4, struct.pack("=I", device))
    body += netlink.attribute(7, socket.inet_aton(OWN_ADDRESS))
    return netlink.message(24, body, netlink.CREATE | netlink.REPLACE)


def _tables(*, replace: bool) -> list[tuple[int, int, bytes]]:
    chains = {_IPV4: _ipv4_chains(), _IPV6: _ipv6_chains()}
    return [request for family in chains for request in _table(family, chains[family], replace)]


def _table(
    family: int, chains: list[tuple[str, str, int, list[bytes]]], replace: bool
) -> list[tuple[int, int, bytes]]:
    """A table with these chains (name, type, priority, rules), in the place of one or as new."""
    name = netlink.text(1, _TABLE)
    requests = [netlink.nftables(_DELETE_TABLE, family, name)] if replace else []
    flags = netlink.CREATE | netlink.EXCLUSIVE
    requests.append(netlink.nftables(_NEW_TABLE, family, name, flags=flags))
    for chain, kind, priority, rules in chains:
        hook = netlink.nested(4, _number(1, _OUTPUT), _number(2, priority))
        # Without a rule that accepts it nothing goes on; the nat chain only chooses destinations.
        policy = _number(5, _ACCEPT if kind == "nat" else _DROP)
        attributes = (name, netlink.text(3, chain), hook, policy, netlink.text(7, kind))
        requests.append(netlink.nftables(_NEW_CHAIN, family, *attributes, flags=netlink.CREATE))
        for rule in rules:
            parts = (name, netlink.text(2, chain), netlink.nested(4, rule))
            flags = netlink.CREATE | netlink.APPEND
            requests.append(netlink.nftables(_NEW_RULE, family, *parts, flags=flags))
    return requests


def _ipv4_chains() -> list[tuple[str, str, int, list[bytes]]]:
    own, listener = socket.inet_aton(OWN_ADDRESS), socket.inet_aton(LISTENER_ADDRESS)
    question = _port(53)
    nat = [
        _to_net(b"\x7f", 1) + _verdict(_ACCEPT),
        _to(own) + _verdict(_ACCEPT),
        _protocol(_UDP) + question + _turn(DNS_PORT),
        _protocol(_TCP) + question + _turn(DNS_PORT),
        # The listener is reached by being sent there, never by asking for it.
        _to(listener) + _verdict(_ACCEPT),
        _protocol(_TCP) + _turn(TCP_PORT),
    ]
    rules = [
        _to_net(b"\x7f", 1) + _verdict(_ACCEPT),
        _to(own) + _verdict(_ACCEPT),
        _to(listener) + _was_turned() + _verdict(_ACCEPT),
        # A refusal opens nothing; and who asked for the listener itself has its address as well.
        _to(listener) + _is_reset() + _verdict(_ACCEPT),
        _protocol(_TCP) + _reject(_RESET, 0),
        _reject(_UNREACHABLE, _REFUSED_BY_RULE),
    ]
    return [("nat", "nat", _NAT_PRIORITY, nat), ("filter", "filter", _FILTER_PRIORITY, rules)]


def _ipv6_chains() -> list[tuple[str, str, int, list[bytes]]]:
    own = socket.inet_pton(socket.AF_INET6, "::1")
    rules = [
        _load(1, 24, 16) + _compare(own) + _verdict(_ACCEPT),
        _reject(_UNREACHABLE, _REFUSED_BY_RULE_V6),
    ]
    return [("filter", "filter", _FILTER_PRIORITY, rules)]


def _number(kind: int, value: int) -> bytes:
    return netlink.attribute(kind, struct.pack(">I", value & 0xFFFFFFFF))


def _expression(name: str, *attributes: bytes) -> bytes:
    return netlink.nested(1, netlink.text(1, name), netlink.nested(2, *attributes))


def _value(kind: int, data: bytes) -> bytes:
    return netlink.nested(kind, netlink.attribute(1, data))


def _load(base: int, offset: int, length: int) -> bytes:
    """Bytes of the network (1) or transport (2) header into register 1."""
    numbers = (_number(2, base), _number(3, offset), _number(4, length))
    return _expression("payload", _number(1, 1), *numbers)


def _compare(data: bytes, how: int = _EQUAL) -> bytes:
    return _expression("cmp", _number(1, 1), _number(2, how), _value(3, data))


def _to(address: bytes) -> bytes:
    return _load(1, 16, 4) + _compare(address)


def _to_net(prefix: bytes, length: int) -> bytes:
    return _load(1, 16, length) + _compare(prefix)


def _protocol(number: int) -> bytes:
    key = 16  # NFT_META_L4PROTO
    return _expression("meta", _number(1, 1), _number(2, key)) + _compare(bytes([number]))


def _port(number: int) -> bytes:
    return _load(2, 2, 2) + _compare(struct.pack(">H", number))


def _was_turned() -> bytes:
    status = _expression("ct", _number(1, 1), _number(2, 2))
    mask, zero = struct.pack("=I", _TURNED), struct.pack("=I", 0)
    sizes = (_number(1, 1), _number(2, 1), _number(3, 4))
    masked = _expression("bitwise", *sizes, _value(4, mask), _value(5, zero))
    return status + masked + _compare(zero, _UNEQUAL)


def _is_reset() -> bytes:
    flag = b"\x04"
    sizes = (_number(1, 1), _number(2, 1), _number(3, 1))
    masked = _expression("bitwise", *sizes, _value(4, flag), _value(5, b"\0"))
    return _protocol(_TCP) + _load(2, 13, 1) + masked + _compare(flag)


def _verdict(code: int) -> bytes:
    verdict = netlink.nested(2, netlink.nested(2, _number(1, code)))
    return _expression("immediate", _number(1, 0), verdict)


def _turn(port: int) -> bytes:
    """To the listener at `port`: dnat."""
    address = _expression("immediate", _number(1, 1), _value(2, socket.inet_aton(LISTENER_ADDRESS)))
    to_port = _expression("immediate", _number(1, 2), _value(2, struct.pack(">H", port)))
    registers = (_number(3, 1), _number(4, 1), _number(5, 2), _number(6, 2))
    return address + to_port + _expression("nat", _number(1, 1), _number(2, _IPV4), *registers)


def _reject(how: int, code: int) -> bytes:
    return _expression("reject", _number(1, how), netlink.attribute(2, bytes([code])))
