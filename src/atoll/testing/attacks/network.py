"""Attacks over sockets."""

from __future__ import annotations

from atoll.testing.attacks.attempts import inside
from atoll.testing.attacks.model import Attack
from atoll.testing.attacks.probes import network

SECTION = "network"

ATTACKS: tuple[Attack, ...] = (
    inside(
        SECTION,
        "socket-families",
        "Can code open sockets of rare families: packet, vsock, AF_ALG, netfilter netlink?",
        network.families,
    ),
    inside(
        SECTION,
        "raw-sockets",
        "Can code forge packets through raw sockets?",
        network.raw_sockets,
    ),
    inside(
        SECTION,
        "loopback",
        "Can code reach a server on the host's or a neighbour's loopback, by any spelling?",
        network.connect,
        context=True,
    ),
    inside(
        SECTION,
        "outside",
        "Does any packet find a way out: metadata services, name servers, private ranges?",
        network.leave_the_machine,
    ),
    inside(SECTION, "dns", "Does anybody answer for a foreign name?", network.resolve),
    inside(
        SECTION,
        "abstract-sockets",
        "Can code reach abstract unix sockets of the host or of a neighbour?",
        network.abstract_sockets,
    ),
    inside(
        SECTION,
        "interfaces",
        "Can code see the host's interfaces, or change its own, its addresses or routes?",
        network.interfaces,
    ),
    inside(
        SECTION,
        "shared-memory",
        "Can code see or open System V shared memory of the host or of a neighbour?",
        network.ipc,
    ),
)
