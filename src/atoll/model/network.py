"""What a sandbox may reach, and what it did reach."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self

from atoll.model import network_parts as parts
from atoll.model.errors import InvalidArgument
from atoll.model.network_parts import EgressProxy as EgressProxy
from atoll.model.network_parts import HeaderRule as HeaderRule

EVERYTHING = "0.0.0.0/0"
"""In `deny_out`: every address, of IPv6 as well."""


@dataclass(frozen=True)
class NetworkPolicy:
    """What one sandbox's connections may reach.

    `allow_out` beats `deny_out`, which beats `allow_internet_access`. Private, loopback, metadata
    and other special addresses, and the host's own, are closed to all three; an entry of
    `allow_out` opens those of them that it names: one address, or a network that lies within the
    closed one (``10.1.0.0/16``, not ``0.0.0.0/0``).

    Attributes:
        allow_internet_access: what holds for destinations that no entry names.
        allow_out: addresses, networks, host names and ``*.domain`` that are open. Names need
            everything else to be closed: `allow_internet_access` false, or ``0.0.0.0/0`` denied.
        deny_out: addresses, networks, host names and ``*.domain`` that are closed.
        dns_servers: who resolves names (``address`` or ``address:port``), asked by the host.
            None: those of the host. Empty: no name resolves.
        egress_proxy: a SOCKS5 proxy through which every connection goes; it resolves the names.
        https_ports: ports inside that speak TLS, for connections into the sandbox.
        rules: headers that the host adds to HTTPS requests, by host name.
        bandwidth: bytes a second, in and out together. None: no limit.
        max_connections: connections open at once; more are refused.
    """

    allow_internet_access: bool = True
    allow_out: tuple[str, ...] = ()
    deny_out: tuple[str, ...] = ()
    dns_servers: tuple[str, ...] | None = None
    egress_proxy: EgressProxy | None = None
    https_ports: tuple[int, ...] = ()
    rules: tuple[HeaderRule, ...] = ()
    bandwidth: int | None = None
    max_connections: int = 1000

    def __post_init__(self) -> None:
        parsed = {
            "allow_internet_access": parts.parse_bool(
                "allow_internet_access", self.allow_internet_access
            ),
            "allow_out": parts.parse_targets("allow_out", self.allow_out),
            "deny_out": parts.parse_targets("deny_out", self.deny_out),
            "dns_servers": parts.parse_servers(self.dns_servers),
            "egress_proxy": parts.parse_proxy(self.egress_proxy),
            "https_ports": parts.parse_ports(self.https_ports),
            "rules": parts.parse_rules(self.rules),
            "bandwidth": parts.parse_count("bandwidth", self.bandwidth, 1 << 50),
            "max_connections": parts.parse_count("max_connections", self.max_connections, 100_000),
        }
        for name, value in parsed.items():
            object.__setattr__(self, name, value)
        if self.max_connections is None:
            raise InvalidArgument("network policy: max_connections must be a number")
        named = [target for target in self.allow_out if not parts.is_network(target)]
        if named and self.allow_internet_access and EVERYTHING not in self.deny_out:
            raise InvalidArgument(
                f"network policy: allow_out names {named[0]!r}, but everything else is open too",
                hint="set allow_internet_access=False, or deny_out=('0.0.0.0/0',)",
            )

    @classmethod
    def internet(cls) -> Self:
        """Everything but what is always closed."""
        return cls()

    @classmethod
    def of(cls, value: NetworkPolicy | Mapping[str, Any] | str | bool | None) -> Self | None:
        """The policy that `value` means; None for a sandbox with only its own loopback.

        Args:
            value: a policy, a mapping of its fields, True or ``"internet"``, or None, False or
                ``"none"``.

        Raises:
            InvalidArgument: it is none of these, or a field cannot be what it is.
        """
        if value is None or value is False or value == "none":
            return None
        if value is True or value == "internet":
            return cls.internet()
        if isinstance(value, cls):
            return value
        if not isinstance(value, Mapping):
            raise InvalidArgument(
                f"network must be True, False, 'internet', 'none', a NetworkPolicy or a mapping of "
                f"its fields, not {value!r}"
            )
        known = {f.name for f in fields(cls)}
        for name in value:
            if name not in known:
                raise InvalidArgument(
                    f"network policy: {name!r} is no field",
                    hint=f"the fields are {', '.join(sorted(known))}",
                )
        return cls(**value)

    def with_changes(self, **changes: Any) -> Self:
        """The same policy with other values for some fields. Raises InvalidArgument."""
        return replace(self, **changes)

    def to_mapping(self) -> dict[str, Any]:
        """Every field as JSON can hold it, secrets too; `of` reads it back."""
        proxy = self.egress_proxy
        return {
            "allow_internet_access": self.allow_internet_access,
            "allow_out": list(self.allow_out),
            "deny_out": list(self.deny_out),
            "dns_servers": None if self.dns_servers is None else list(self.dns_servers),
            "egress_proxy": proxy and proxy.to_mapping(),
            "https_ports": list(self.https_ports),
            "rules": [rule.to_mapping() for rule in self.rules],
            "bandwidth": self.bandwidth,
            "max_connections": self.max_connections,
        }


@dataclass(frozen=True)
class ConnectionRecord:
    """One connection that a sandbox asked for.

    Attributes:
        time: seconds since the epoch.
        target: the name, or the address, that was asked for.
        port: its TCP port.
        verdict: ``open``, ``closed`` (after its end), ``refused`` or ``cut`` (by a new policy).
        reason: why, in a few words; empty for what ended by itself.
        address: the address that was dialled, or empty.
        bytes_in: what came into the sandbox.
        bytes_out: what left it.
    """

    time: float
    target: str
    port: int
    verdict: str
    reason: str = ""
    address: str = ""
    bytes_in: int = 0
    bytes_out: int = 0


@dataclass(frozen=True)
class NetworkReport:
    """What one sandbox has done with its network.

    Attributes:
        bytes_in: into the sandbox, over all connections.
        bytes_out: out of it.
        open: connections alive now.
        opened: connections that were dialled.
        refused: connections that were not.
        dns_queries: questions that were answered.
        dns_dropped: questions over the rate, or that were no questions.
        log: the last connections, oldest first; the oldest are dropped.
    """

    bytes_in: int = 0
    bytes_out: int = 0
    open: int = 0
    opened: int = 0
    refused: int = 0
    dns_queries: int = 0
    dns_dropped: int = 0
    log: tuple[ConnectionRecord, ...] = field(default=())
