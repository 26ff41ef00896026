"""Asks the kernel for a NAT chain, as the network of sandboxes needs it.

Source: <linux/netfilter/nf_tables.h>.
"""

from __future__ import annotations

import struct

from atoll.launch.linux import netlink

_NEW_TABLE, _NEW_CHAIN = 0, 3
_IPV4 = 2


def make_nat_chain() -> None:
    """Make one in this network namespace.

    It loads nf_tables, nft_chain_nat, nf_nat and nf_conntrack where they are modules.

    Raises:
        OSError: as the kernel answered.
    """
    hook = netlink.nested(
        4,
        netlink.attribute(1, struct.pack(">I", 3)),
        netlink.attribute(2, struct.pack(">i", -100)),
    )
    chain = (netlink.text(1, "probe"), netlink.text(3, "out"), hook, netlink.text(7, "nat"))
    netlink.batch(
        netlink.nftables(_NEW_TABLE, _IPV4, netlink.text(1, "probe"), flags=netlink.CREATE),
        netlink.nftables(_NEW_CHAIN, _IPV4, *chain, flags=netlink.CREATE),
    )
