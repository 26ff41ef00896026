"""The egress proxy's outlet in a process of its own, for the benchmark: TCP-LISTENER PORT.

In a sandbox the kernel knows where each connection was to go. Here all of them go to PORT of
loopback, under a name: so the whole way of a connection is measured but for the redirection.
"""

from __future__ import annotations

import socket
import sys

import anyio

from atoll.egress.addresses import parse_address
from atoll.egress.outlet import HostResolution, Outlet, Sockets
from atoll.egress.relay import Pipes
from atoll.model import NetworkPolicy

_NAME, _LOOPBACK = "bench.example", "127.0.0.1"


async def _serve(tcp: socket.socket, port: int) -> None:
    outlet = Outlet(
        NetworkPolicy(allow_internet_access=False, allow_out=(_NAME, _LOOPBACK)),
        frozenset({parse_address("10.0.0.2")}),
        pipes=Pipes(),
        host=HostResolution((), {_NAME: [_LOOPBACK]}),
        find_destination=lambda _sock: (outlet.names.address_of(_NAME), port),
    )
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp, socket.socket() as dns_tcp:
        for sock in (udp, dns_tcp):
            sock.bind((_LOOPBACK, 0))
            sock.setblocking(False)
        dns_tcp.listen()
        await outlet.run(Sockets(tcp, udp, dns_tcp))


def main() -> None:
    """Serve until killed."""
    listener, port = (int(word) for word in sys.argv[1:])
    tcp = socket.socket(fileno=listener)
    tcp.setblocking(False)
    anyio.run(_serve, tcp, port)


if __name__ == "__main__":
    main()
