"""The decision about one destination: pure functions of a policy."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from enum import Enum
from functools import cached_property

from atoll.egress.addresses import Address, Network, closing, is_within, meanings, plain
from atoll.egress.first_bytes import Said
from atoll.model import HeaderRule, NetworkPolicy
from atoll.model.hostnames import matches
from atoll.model.network import EVERYTHING
from atoll.model.network_parts import is_network

# Names that resolvers treat apart, and those of metadata servers.
_CLOSED_NAMES = frozenset(
    {"localhost", "*.localhost", "metadata.google.internal", "metadata.goog", "metadata"}
)


class ByName(Enum):
    """What a policy says about a host name alone."""

    OPEN = "open"
    CLOSED = "closed"
    ADDRESS_DECIDES = "address decides"


@dataclass(frozen=True)
class Verdict:
    """Whether a destination is open, and why not."""

    open: bool
    reason: str = ""


OPEN = Verdict(True)


@dataclass(frozen=True)
class Rules:
    """A policy in the form in which it is asked."""

    policy: NetworkPolicy

    @cached_property
    def allowed_names(self) -> frozenset[str]:
        """Host names and patterns that are open."""
        return frozenset(item for item in self.policy.allow_out if not is_network(item))

    @cached_property
    def denied_names(self) -> frozenset[str]:
        """Host names and patterns that are closed."""
        return frozenset(item for item in self.policy.deny_out if not is_network(item))

    @cached_property
    def allowed_networks(self) -> tuple[Network, ...]:
        """Networks that are open."""
        return tuple(ipaddress.ip_network(item) for item in self.policy.allow_out if "/" in item)

    @cached_property
    def denied_networks(self) -> tuple[Network, ...]:
        """Networks that are closed."""
        return tuple(ipaddress.ip_network(item) for item in self.policy.deny_out if "/" in item)

    @cached_property
    def open_by_default(self) -> bool:
        """True if what no entry names is open."""
        return self.policy.allow_internet_access and EVERYTHING not in self.policy.deny_out

    @cached_property
    def names_matter(self) -> bool:
        """True if the name that a client says must be looked at."""
        return bool(self.allowed_names or self.denied_names)

    @cached_property
    def addresses_matter(self) -> bool:
        """True if what a name resolves to can close it (beyond what is closed to all)."""
        return bool(self.denied_networks)

    def about_name(self, name: str) -> ByName:
        """What the policy says about a host name as `parse_hostname` gives it."""
        if matches(self.allowed_names, name):
            return ByName.OPEN
        if matches(self.denied_names, name) or matches(_CLOSED_NAMES, name):
            return ByName.CLOSED
        # Where nothing is open unless named, a name that is not named is not even asked for:
        # the question itself would carry bytes out.
        return ByName.ADDRESS_DECIDES if self.open_by_default else ByName.CLOSED

    def about_address(
        self, address: Address, *, by_name: bool = False, of_host: bool = False
    ) -> Verdict:
        """Whether the host may dial `address`.

        Args:
            address: what would be dialled.
            by_name: it is what an open name resolved to.
            of_host: it is an address of this host's own.
        """
        if verdict := self._always_closed(address, of_host):
            return verdict
        if by_name or self._allowed(address):
            return OPEN
        if not self.open_by_default:
            return Verdict(False, "the policy allows only what it names")
        for meaning in meanings(address):
            if any(meaning in network for network in self.denied_networks):
                return Verdict(False, "deny_out names its network")
        return OPEN

    def about_said(self, said: Said, name: str | None, *, by_name: bool) -> Verdict:
        """Whether a client may say `said` on a connection that was opened already.

        Args:
            said: its first bytes.
            name: what the connection was opened to, unless that was an address.
            by_name: the connection is open for its name, not for its address.
        """
        host = said.host
        if host is None or host == name:
            return OPEN
        if not isinstance(host, str):
            return self.about_address(host) if by_name else OPEN
        if matches(self.allowed_names, host):
            return OPEN
        if by_name or matches(self.denied_names, host):
            return Verdict(False, f"the client names {host}")
        return OPEN

    def header_rule(self, name: str) -> HeaderRule | None:
        """The rule for requests to `name`; an exact one before those with ``*.``."""
        found = None
        for rule in self.policy.rules:
            if rule.host == name:
                return rule
            if found is None and matches(frozenset({rule.host}), name):
                found = rule
        return found

    def _allowed(self, address: Address) -> bool:
        return any(plain(address) in network for network in self.allowed_networks)

    def _always_closed(self, address: Address, of_host: bool) -> Verdict | None:
        naming = [network for network in self.allowed_networks if plain(address) in network]
        if of_host and not any(network.num_addresses == 1 for network in naming):
            return Verdict(False, "an address of the host itself")
        for network in closing(address):
            if not any(is_within(entry, network) for entry in self._naming(address, network)):
                return Verdict(False, f"{network} is closed unless named")
        return None

    def _naming(self, address: Address, network: Network) -> list[Network]:
        """The allowed networks that name this address, in the spelling that `network` is of."""
        spellings = [meaning for meaning in meanings(address) if meaning in network]
        return [
            entry
            for entry in self.allowed_networks
            if all(meaning in entry for meaning in spellings)
        ]
