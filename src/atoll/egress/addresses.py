"""Which addresses are closed to every sandbox, in whatever spelling they come."""

from __future__ import annotations

import ipaddress

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_CLOSED = """
    0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24
    192.0.2.0/24 192.31.196.0/24 192.52.193.0/24 192.88.99.0/24 192.168.0.0/16 192.175.48.0/24
    198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 224.0.0.0/4 240.0.0.0/4 255.255.255.255/32
    ::/128 ::1/128 ::/96 ::ffff:0:0/96 ::ffff:0:0:0/96 64:ff9b:1::/48 100::/64 2001::/23
    2001:db8::/32 2002::/16 3fff::/20 5f00::/16 fc00::/7 fe80::/10 fec0::/10 ff00::/8
    ::/3 4000::/2 8000::/1
"""
# Metadata and wire servers of the clouds: AWS (also ECS, EKS, DNS, NTP), GCP, Azure, Alibaba,
# Oracle, Scaleway. Each is a network of its own, so that only naming the very address opens it.
_METADATA = """
    169.254.169.254/32 169.254.170.2/32 169.254.170.23/32 169.254.169.253/32 169.254.169.123/32
    168.63.129.16/32 100.100.100.200/32 192.0.0.192/32 169.254.42.42/32
    fd00:ec2::254/128 fd00:ec2::253/128 fd00:ec2::23/128 fd00:ec2::123/128 fd20:ce::254/128
    fd00:42::42/128
"""
# RFC 6052: the address behind the translator is in the last 32 bits.
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_6TO4 = ipaddress.IPv6Network("2002::/16")
_EMBEDDED = (
    _NAT64,
    ipaddress.IPv6Network("::/96"),
    ipaddress.IPv6Network("::ffff:0:0:0/96"),
    ipaddress.IPv6Network("64:ff9b:1::/48"),
)
_ISATAP = {b"\x00\x00\x5e\xfe", b"\x02\x00\x5e\xfe"}


def _networks(text: str) -> tuple[Network, ...]:
    return tuple(ipaddress.ip_network(word) for word in text.split())


CLOSED_NETWORKS = _networks(_CLOSED + _METADATA)

MAX_ADDRESS_TEXT = 64


def parse_address(text: str) -> Address:
    """The address that `text` spells; IPv4 for an IPv4-mapped one.

    Raises:
        ValueError: it is none, or has a zone.
    """
    if len(text) > MAX_ADDRESS_TEXT:
        raise ValueError("too long for an address")
    return plain(ipaddress.ip_address(text))


def plain(address: Address) -> Address:
    """IPv4 for an IPv4-mapped address, since that is what a socket then reaches."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            raise ValueError("an address with a zone")
        return address.ipv4_mapped or address
    return address


def meanings(address: Address) -> tuple[Address, ...]:
    """`address` and every IPv4 address that a translator or tunnel would make of it."""
    address = plain(address)
    if isinstance(address, ipaddress.IPv4Address):
        return (address,)
    found: list[Address] = [address]
    packed = address.packed
    if any(address in network for network in _EMBEDDED):
        found.append(ipaddress.IPv4Address(packed[12:]))
    if address in _6TO4:
        found.append(ipaddress.IPv4Address(packed[2:6]))
    if address.teredo:
        found.extend(address.teredo)
    if packed[8:12] in _ISATAP:
        found.append(ipaddress.IPv4Address(packed[12:]))
    return tuple(found)


def closing(address: Address) -> tuple[Network, ...]:
    """The closed networks that any meaning of `address` lies in."""
    return tuple(
        network
        for meaning in meanings(address)
        for network in CLOSED_NETWORKS
        # A NAT64 address is as open as the address behind it.
        if meaning in network and not (meaning in _NAT64 and network.prefixlen == 3)
    )


def is_within(inner: Network, outer: Network) -> bool:
    """True if `inner` is the same network as `outer` or a part of it."""
    if isinstance(inner, ipaddress.IPv4Network):
        return isinstance(outer, ipaddress.IPv4Network) and inner.subnet_of(outer)
    return isinstance(outer, ipaddress.IPv6Network) and inner.subnet_of(outer)
