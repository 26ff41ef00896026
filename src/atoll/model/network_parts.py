"""The parts of a network policy, and how each is read. Every refusal names the field."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from atoll.model.errors import InvalidArgument
from atoll.model.hostnames import parse_hostname, parse_pattern

MAX_ENTRIES = 1000
_MAX_TEXT = 16_384
# What a header's name and value may be made of (RFC 9110 5.5, 5.6.2), without empty ones.
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")
_VALUE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e\t]*[\x21-\x7e])?")
_FRAMING = {
    "host", "content-length", "transfer-encoding", "connection", "upgrade", "te", "trailer",
    "expect", "keep-alive", "proxy-connection",
}  # fmt: skip

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True)
class EgressProxy:
    """A SOCKS5 proxy (RFC 1928) that every connection goes through.

    Attributes:
        address: ``host:port``, dialled by the host.
        username: for RFC 1929; None to give none.
        password: likewise.
        tls: speak TLS to the proxy.
        server_name: the name its certificate must have; the host of `address` if None.
        ca_cert: PEM of the authority that signed it; the system's if None.
    """

    address: str
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: bool = False
    server_name: str | None = None
    ca_cert: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        split_endpoint("egress_proxy.address", self.address)
        for name in ("username", "password"):
            value = getattr(self, name)
            # RFC 1929: one byte of length.
            if value is not None and not (
                isinstance(value, str) and 0 < len(value.encode()) <= 255
            ):
                _refuse(f"egress_proxy.{name}", "it must be text of 1 to 255 bytes")
        if (self.username is None) != (self.password is None):
            _refuse("egress_proxy", "a username needs a password, and the other way round")
        parse_bool("egress_proxy.tls", self.tls)
        if self.server_name is not None:
            _hostname("egress_proxy.server_name", self.server_name)
        if self.ca_cert is not None and not isinstance(self.ca_cert, str):
            _refuse("egress_proxy.ca_cert", "it must be PEM text")

    def to_mapping(self) -> dict[str, Any]:
        """Every field as JSON can hold it, the password too."""
        return dict(vars(self))


@dataclass(frozen=True)
class HeaderRule:
    """Headers that the host sets in HTTPS requests to one host; the sandbox never sees them.

    Attributes:
        host: a host name or ``*.domain``.
        headers: name to value; a header of that name in the request is replaced.
        placeholders: text to its secret: replaced wherever it stands in a header of the request.
    """

    host: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    placeholders: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "host", _pattern("rules.host", self.host))
        object.__setattr__(self, "headers", _texts("rules.headers", self.headers))
        object.__setattr__(self, "placeholders", _texts("rules.placeholders", self.placeholders))
        for name in self.headers:
            if not _TOKEN.fullmatch(name):
                _refuse("rules.headers", f"{name!r} is no header's name")
            if name.lower() in _FRAMING:
                _refuse("rules.headers", f"{name!r} frames the request and cannot be set")
        for values in (self.headers, self.placeholders):
            for name, value in values.items():
                if not _VALUE.fullmatch(value):
                    # Not the value itself: it is likely a secret.
                    _refuse("rules", f"the value for {name!r} cannot stand in a header")
        if any(len(text) < 8 for text in self.placeholders):
            _refuse("rules.placeholders", "a placeholder has at least 8 characters")

    def to_mapping(self) -> dict[str, Any]:
        """Every field as JSON can hold it, the secrets too."""
        return {
            "host": self.host,
            "headers": dict(self.headers),
            "placeholders": dict(self.placeholders),
        }


def is_network(target: str) -> bool:
    """True if an entry of `allow_out` or `deny_out`, already parsed, is no name."""
    return "/" in target


def parse_bool(name: str, value: object) -> bool:
    """True or False. Raises InvalidArgument."""
    if not isinstance(value, bool):
        _refuse(name, f"it must be true or false, not {value!r}")
    return value


def parse_count(name: str, value: object, most: int) -> int | None:
    """A whole number above zero, or None. Raises InvalidArgument."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= most:
        _refuse(name, f"it must be a whole number from 1 to {most}, not {value!r}")
    return value


def parse_targets(name: str, value: object) -> tuple[str, ...]:
    """Networks in CIDR, and patterns. Raises InvalidArgument."""
    return tuple(dict.fromkeys(_target(name, item) for item in _items(name, value)))


def parse_servers(value: object) -> tuple[str, ...] | None:
    """``address:port`` of each server. Raises InvalidArgument."""
    if value is None:
        return None
    return tuple(_server(item) for item in _items("dns_servers", value, most=8))


def parse_ports(value: object) -> tuple[int, ...]:
    """Ports. Raises InvalidArgument."""
    ports = []
    for port in _items("https_ports", value):
        if isinstance(port, bool) or not isinstance(port, int) or not 0 < port < 65536:
            _refuse("https_ports", f"{port!r} is no port")
        ports.append(port)
    return tuple(ports)


def parse_proxy(value: object) -> EgressProxy | None:
    """The proxy, from itself or a mapping of its fields. Raises InvalidArgument."""
    if value is None or isinstance(value, EgressProxy):
        return value
    return EgressProxy(**_fields("egress_proxy", value, EgressProxy))


def parse_rules(value: object) -> tuple[HeaderRule, ...]:
    """The rules, from themselves or mappings of their fields. Raises InvalidArgument."""
    return tuple(
        item if isinstance(item, HeaderRule) else HeaderRule(**_fields("rules", item, HeaderRule))
        for item in _items("rules", value)
    )


def split_endpoint(name: str, value: object) -> tuple[str, int]:
    """Host and port of ``host:port``, ``address:port`` or ``[v6]:port``. InvalidArgument."""
    if not isinstance(value, str):
        _refuse(name, f"it must be text such as 'host:port', not {value!r}")
    host, _, port = value.rpartition(":")
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) < 65536):
        _refuse(name, f"{value!r} has no port; write 'host:port'")
    if host.startswith("[") and host.endswith("]"):
        return str(_address(name, host[1:-1])), int(port)
    try:
        return str(ipaddress.IPv4Address(host)), int(port)
    except ValueError:
        return _hostname(name, host), int(port)


def _refuse(name: str, why: str) -> NoReturn:
    raise InvalidArgument(f"network policy: {name}: {why}")


def _items(name: str, value: object, most: int = MAX_ENTRIES) -> list[Any]:
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        _refuse(name, f"it must be a list, not {value!r}")
    items = list(value)
    if len(items) > most:
        _refuse(name, f"it has {len(items)} entries, which is more than {most}")
    return items


def _fields(name: str, value: object, kind: type) -> dict[str, Any]:
    known = kind.__dataclass_fields__  # type: ignore[attr-defined]
    if not isinstance(value, Mapping) or not set(value) <= set(known):
        _refuse(name, f"it must be a mapping with fields among {', '.join(known)}")
    if missing := {"address", "host"} & set(known) - set(value):
        _refuse(name, f"{missing.pop()!r} is missing")
    return dict(value)


def _texts(name: str, value: object) -> dict[str, str]:
    if not isinstance(value, Mapping) or not all(
        isinstance(text, str) and 0 < len(text) <= _MAX_TEXT
        for pair in value.items()
        for text in pair
    ):
        _refuse(name, "it must map text to text")
    return dict(value)


def _address(name: str, text: str) -> Address:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        _refuse(name, f"{text!r} is no address")
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            _refuse(name, f"{text!r} has a zone, which means nothing here")
        return address.ipv4_mapped or address
    return address


def _target(name: str, item: object) -> str:
    if not isinstance(item, str):
        _refuse(name, f"{item!r} is no address, network or host name")
    if ":" not in item and not re.fullmatch(r"[0-9./]+", item):
        return _pattern(name, item)
    text, slash, length = item.partition("/")
    address = _address(name, text)
    if not slash:
        return f"{address}/{address.max_prefixlen}"
    try:
        network = ipaddress.ip_network(f"{text}/{length}")
    except ValueError as error:
        _refuse(name, f"{item!r} is no network: {error}")
    if network.version == 6 and address.version == 4:
        # Written as ::ffff:a.b.c.d: the length counts the 96 bits before it too.
        if network.prefixlen < 96:
            _refuse(name, f"{item!r} is no network of IPv4; write it as one of IPv4 or IPv6")
        return f"{address}/{network.prefixlen - 96}"
    return str(network)


def _server(item: object) -> str:
    if not isinstance(item, str):
        _refuse("dns_servers", f"{item!r} is no address")
    try:
        address = ipaddress.ip_address(item)
    except ValueError:
        host, port = split_endpoint("dns_servers", item)
        address = _address("dns_servers", host)
    else:
        port = 53
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"


def _pattern(name: str, text: object) -> str:
    if not isinstance(text, str):
        _refuse(name, f"{text!r} is no host name")
    try:
        return parse_pattern(text)
    except ValueError as error:
        _refuse(name, f"{text!r}: {error}")


def _hostname(name: str, text: object) -> str:
    if not isinstance(text, str):
        _refuse(name, f"{text!r} is no host name")
    try:
        return parse_hostname(text)
    except ValueError as error:
        _refuse(name, f"{text!r}: {error}")
