"""The far side of a connection: dialled directly, or through a SOCKS5 proxy."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import anyio
from anyio.abc import ByteStream
from anyio.streams.tls import TLSStream

from atoll.egress import relay, streams
from atoll.egress.addresses import Address, parse_address
from atoll.egress.dialer import dial_first
from atoll.egress.meter import Tally
from atoll.egress.relay import Pipes
from atoll.egress.resolver import Resolver
from atoll.egress.socks import ask_for
from atoll.egress.streams import SocketByteStream
from atoll.model import EgressProxy
from atoll.model.network_parts import split_endpoint

HANDSHAKE_SECONDS = 15.0


@dataclass
class Upstream:
    """An open connection to the far side.

    Attributes:
        sock: its socket, to be closed by the owner.
        address: what was dialled, or the proxy's word for it.
        stream: what to speak through if that is not the bare socket (TLS to a proxy).
    """

    sock: socket.socket
    address: str
    stream: ByteStream | None = None

    def as_stream(self) -> ByteStream:
        """A stream over it."""
        return self.stream or SocketByteStream(self.sock)

    async def send(self, data: bytes) -> None:
        """Send all of `data`. Raises OSError, BrokenResourceError."""
        if self.stream is None:
            await streams.send_all(self.sock, data)
        else:
            await self.stream.send(data)

    async def to_client(self, client: socket.socket, tally: Tally, pipes: Pipes) -> None:
        """Move what comes from the far side, to its end."""
        if self.stream is None:
            await relay.move(self.sock, client, "in", tally, pipes)
        else:
            await streams.pump(self.stream, SocketByteStream(client), "in", tally)

    async def from_client(self, client: socket.socket, tally: Tally, pipes: Pipes) -> None:
        """Move what the client sends, to its end."""
        if self.stream is None:
            await relay.move(client, self.sock, "out", tally, pipes)
        else:
            await streams.pump(SocketByteStream(client), self.stream, "out", tally)

    def close(self) -> None:
        """Close it. May be called twice."""
        self.sock.close()


async def open_direct(addresses: Sequence[Address], port: int) -> Upstream:
    """Dial the first that answers. Raises OSError."""
    sock, address = await dial_first(addresses, port)
    return Upstream(sock, str(address))


async def open_through(
    proxy: EgressProxy, resolver: Resolver, host: str | Address, port: int
) -> Upstream:
    """Ask `proxy` for a connection; it resolves names. Raises OSError."""
    proxy_host, proxy_port = split_endpoint("egress_proxy.address", proxy.address)
    sock, address = await dial_first(await _addresses(proxy_host, resolver), proxy_port)
    try:
        with anyio.fail_after(HANDSHAKE_SECONDS):
            stream: ByteStream = SocketByteStream(sock)
            if proxy.tls:
                stream = await TLSStream.wrap(
                    stream,
                    hostname=proxy.server_name or proxy_host,
                    ssl_context=ssl.create_default_context(cadata=proxy.ca_cert),
                    standard_compatible=False,
                )
            await ask_for(stream, proxy, host, port)
    except (anyio.BrokenResourceError, anyio.EndOfStream, ssl.SSLError) as error:
        sock.close()
        raise OSError(f"the egress proxy broke off: {error!r}") from error
    except BaseException:
        sock.close()
        raise
    return Upstream(sock, f"via {address}", stream if proxy.tls else None)


async def _addresses(host: str, resolver: Resolver) -> tuple[Address, ...]:
    """The proxy's own addresses; whoever made the policy has named it."""
    with suppress(ValueError):
        return (parse_address(host),)
    return (await resolver.resolve(host)).addresses
