"""One address for each name that a sandbox asks for: what it then dials is the name."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict

SYNTHETIC_NETWORK = ipaddress.IPv4Network("198.18.0.0/15")
"""Kept for measurements (RFC 2544): no host of the internet has an address in it."""

_FIRST = int(SYNTHETIC_NETWORK.network_address) + 1
_COUNT = SYNTHETIC_NETWORK.num_addresses - 2
MOST_NAMES = 4096


class SyntheticNames:
    """Names and their addresses, of one sandbox. The least used are forgotten first.

    Addresses are given in turn, so that a forgotten one means another name only after all the
    others have been given.
    """

    def __init__(self, most: int = MOST_NAMES) -> None:
        self._most = most
        self._next = 0
        self._by_name: OrderedDict[str, ipaddress.IPv4Address] = OrderedDict()
        self._by_address: dict[ipaddress.IPv4Address, str] = {}

    def __len__(self) -> int:
        return len(self._by_name)

    def address_of(self, name: str) -> ipaddress.IPv4Address:
        """The address that stands for `name`, made if need be."""
        known = self._by_name.get(name)
        if known is not None:
            self._by_name.move_to_end(name)
            return known
        while len(self._by_name) >= self._most:
            _, forgotten = self._by_name.popitem(last=False)
            del self._by_address[forgotten]
        address = self._free_address()
        self._by_name[name] = address
        self._by_address[address] = name
        return address

    def name_of(self, address: object) -> str | None:
        """The name that `address` stands for, if it is remembered."""
        if not isinstance(address, ipaddress.IPv4Address):
            return None
        name = self._by_address.get(address)
        if name is not None:
            self._by_name.move_to_end(name)
        return name

    def _free_address(self) -> ipaddress.IPv4Address:
        while True:
            address = ipaddress.IPv4Address(_FIRST + self._next % _COUNT)
            self._next += 1
            if address not in self._by_address:
                return address
