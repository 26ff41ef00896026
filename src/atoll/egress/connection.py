"""One connection that a sandbox asked for: decided on, dialled, relayed, cut."""

from __future__ import annotations

import socket
import ssl
import time
from dataclasses import dataclass, replace
from typing import Protocol

import anyio

from atoll.egress import injection, streams
from atoll.egress.addresses import Address
from atoll.egress.authority import Issuer
from atoll.egress.client_hello import Malformed
from atoll.egress.decision import ByName, Rules, Verdict
from atoll.egress.dialer import is_of_host, prepare
from atoll.egress.first_bytes import Said, read_first_bytes
from atoll.egress.meter import Meter, Tally
from atoll.egress.relay import Pipes
from atoll.egress.resolver import Resolver
from atoll.egress.synthetic import SYNTHETIC_NETWORK, SyntheticNames
from atoll.egress.upstream import Upstream, open_direct, open_through
from atoll.model import ConnectionRecord

FIRST_BYTES_SECONDS = 10.0
_HTTPS = 443


_BROKEN = (
    OSError,
    anyio.BrokenResourceError,
    anyio.ClosedResourceError,
    anyio.EndOfStream,
    ssl.SSLError,
)


class Refused(Exception):
    """The destination is closed, or nobody answers there."""


class Surroundings(Protocol):
    """What a connection needs to know of its sandbox."""

    rules: Rules
    names: SyntheticNames
    resolver: Resolver
    meter: Meter
    pipes: Pipes
    own: frozenset[Address]
    issuer: Issuer | None


@dataclass(frozen=True)
class Route:
    """Where a connection goes, and by what right.

    Attributes:
        port: the TCP port.
        name: the host's name; None for an address alone.
        by_name: the policy opens the name itself.
        addresses: what may be dialled, in order; none if the egress proxy resolves the name.
        said: what the client's first bytes say, once they are known.
    """

    port: int
    name: str | None
    by_name: bool
    addresses: tuple[Address, ...]
    said: Said | None = None


class Connection:
    """A client's socket on its way to the far side."""

    def __init__(
        self, sandbox: Surroundings, client: socket.socket, destination: tuple[Address, int]
    ) -> None:
        self._sandbox = sandbox
        self._client = client
        self._destination = destination
        self._tally = Tally(sandbox.meter)
        self._scope = anyio.CancelScope()
        self._first = b""
        self._upstream: Upstream | None = None
        self._cut = ""
        self._since = time.time()
        self.route: Route | None = None

    async def run(self) -> ConnectionRecord:
        """Serve the client to the end; what came of it. Never raises an Exception."""
        verdict, reason = "cut", "the sandbox has ended"  # unless it gets to its end below
        try:
            with self._scope:
                verdict, reason = await self._outcome()
            if self._cut:
                verdict, reason = "cut", self._cut
        finally:
            self._end(clean=verdict == "closed" and not reason)
        return self.record(verdict, reason)

    async def _outcome(self) -> tuple[str, str]:
        verdict, reason = "closed", ""
        try:
            await self._serve()
        except* (Refused, Malformed) as group:
            verdict, reason = "refused", _words(group)
        except* _BROKEN as group:
            reason = _words(group)
        return verdict, reason

    def record(self, verdict: str = "open", reason: str = "") -> ConnectionRecord:
        """This connection as the log has it."""
        name = self.route.name if self.route else None
        return ConnectionRecord(
            time=self._since,
            target=name or str(self._destination[0]),
            port=self._destination[1],
            verdict=verdict,
            reason=reason[:100],
            address=self._upstream.address if self._upstream else "",
            bytes_in=self._tally.bytes_in,
            bytes_out=self._tally.bytes_out,
        )

    @property
    def dialled(self) -> bool:
        """True if the far side was reached."""
        return self._upstream is not None

    def cut(self, reason: str) -> None:
        """End it now."""
        self._cut = reason
        self._scope.cancel()

    def judge_again(self, rules: Rules) -> Verdict:
        """What `rules` say about where it goes already."""
        route = self.route
        if route is None:
            return Verdict(True)  # not decided yet: it will be, by the new rules
        if route.name is not None:
            about = rules.about_name(route.name)
            if about is ByName.CLOSED:
                return Verdict(False, "the new policy closes its name")
            by_name = about is ByName.OPEN
        else:
            by_name = False
        for address in route.addresses:
            verdict = rules.about_address(address, by_name=by_name, of_host=is_of_host(address))
            if not verdict.open:
                return verdict
        if route.said is not None:
            return rules.about_said(route.said, route.name, by_name=by_name)
        return Verdict(True)

    # -- where it goes

    async def _serve(self) -> None:
        rules = self._sandbox.rules
        route = await self._find_route(rules)
        self.route = route
        injected = route.name is not None and route.port == _HTTPS
        rule = rules.header_rule(route.name) if injected and route.name else None
        if rule is not None and route.said is None:
            route = self.route = replace(route, said=await self._read_first())
        upstream = await self._open(rules, route)
        self._upstream = upstream
        if upstream.address and route.addresses and self._sandbox.rules.policy.egress_proxy is None:
            # Only what was dialled counts from here on.
            dialled = tuple(a for a in route.addresses if str(a) == upstream.address)
            self.route = route = replace(route, addresses=dialled)
        if rules is not self._sandbox.rules:
            verdict = self.judge_again(self._sandbox.rules)
            if not verdict.open:
                raise Refused(verdict.reason)
        if rule is not None and route.name is not None:
            await self._inject(route, upstream)
        else:
            await self._relay(route, upstream)

    async def _find_route(self, rules: Rules) -> Route:
        address, port = self._destination
        if address in self._sandbox.own or address.is_loopback or address.is_unspecified:
            raise Refused("an address of the sandbox itself")
        if address in SYNTHETIC_NETWORK:
            name = self._sandbox.names.name_of(address)
            if name is None:
                raise Refused("no name was asked for that has this address")
            return await self._route_to(rules, name, port)
        verdict = rules.about_address(address, of_host=is_of_host(address))
        if verdict.open:
            return Route(port, None, False, (address,))
        if not rules.allowed_names:
            raise Refused(verdict.reason)
        # Its client resolved the name elsewhere. It may have what it names, from where we find it.
        said = await self._read_first()
        named = said.host if said.kind in ("tls", "http") and not said.hidden else None
        if not isinstance(named, str) or rules.about_name(named) is not ByName.OPEN:
            raise Refused(verdict.reason)
        return replace(await self._route_to(rules, named, port), said=said)

    async def _route_to(self, rules: Rules, name: str, port: int) -> Route:
        about = rules.about_name(name)
        if about is ByName.CLOSED:
            raise Refused("the policy closes this name")
        by_name = about is ByName.OPEN
        if rules.policy.egress_proxy is not None:
            if not by_name and rules.addresses_matter:
                raise Refused("deny_out names networks, and the egress proxy resolves the name")
            return Route(port, name, by_name, ())
        found = await self._sandbox.resolver.resolve(name)
        verdicts = {
            address: rules.about_address(address, by_name=by_name, of_host=is_of_host(address))
            for address in found.addresses
        }
        addresses = tuple(address for address, verdict in verdicts.items() if verdict.open)
        if not addresses:
            closed = [f"{a}: {v.reason}" for a, v in verdicts.items()]
            raise Refused(closed[0] if closed else "the name does not resolve")
        return Route(port, name, by_name, addresses)

    async def _open(self, rules: Rules, route: Route) -> Upstream:
        proxy = rules.policy.egress_proxy
        try:
            if proxy is None:
                return await open_direct(route.addresses, route.port)
            host = route.name if route.name is not None else route.addresses[0]
            return await open_through(proxy, self._sandbox.resolver, host, route.port)
        except OSError as error:
            raise Refused(f"cannot connect: {error or type(error).__name__}") from error

    # -- what goes through it

    async def _relay(self, route: Route, upstream: Upstream) -> None:
        async with anyio.create_task_group() as ways:
            ways.start_soon(upstream.to_client, self._client, self._tally, self._sandbox.pipes)
            if route.said is None and self._sandbox.rules.names_matter:
                # Beside the other way: some servers speak first.
                said = await self._read_first()
                self.route = route = replace(route, said=said)
            if route.said is not None:
                self._check_said(route, route.said)
            if self._first:
                await upstream.send(self._first)
                await self._tally.spend(len(self._first), "out")
            await upstream.from_client(self._client, self._tally, self._sandbox.pipes)

    def _check_said(self, route: Route, said: Said) -> None:
        verdict = self._sandbox.rules.about_said(said, route.name, by_name=route.by_name)
        if not verdict.open:
            raise Refused(verdict.reason)

    async def _inject(self, route: Route, upstream: Upstream) -> None:
        if route.said is None or route.said.kind != "tls" or route.said.host != route.name:
            raise Refused("a host with header rules is reached by HTTPS under its own name only")
        if self._sandbox.issuer is None or route.name is None:
            raise Refused("there is no authority to answer in the host's name")
        rule = self._sandbox.rules.header_rule(route.name)
        if rule is None:  # dropped by an update meanwhile
            raise Refused("the header rule has gone")
        await injection.relay(
            streams.SocketByteStream(self._client, self._first),
            upstream.as_stream(),
            injection.Injection(
                route.name,
                rule,
                self._sandbox.issuer.context_for(route.name),
                self._sandbox.issuer.trust,
            ),
            self._tally,
        )

    async def _read_first(self) -> Said:
        """What the client's first bytes say; they stay in `_first` to be passed on."""
        try:
            with anyio.fail_after(FIRST_BYTES_SECONDS):
                while True:
                    said = read_first_bytes(self._first)
                    if said is not None:
                        return said
                    more = await streams.receive(self._client, 16_384)
                    if not more:
                        break
                    self._first += more
        except Malformed as error:
            raise Refused(f"the client's first bytes: {error}") from None
        except TimeoutError:
            raise Refused("the client's first bytes do not come") from None
        if self._first:
            raise Refused("the client's first bytes end early")
        return Said("other")

    def _end(self, *, clean: bool) -> None:
        if clean:
            self._client.close()
        else:
            streams.reset(self._client)
        if self._upstream is not None:
            if clean:
                self._upstream.close()
            else:
                streams.reset(self._upstream.sock)


def accepted(client: socket.socket) -> socket.socket:
    """`client` as a relayed connection's socket."""
    prepare(client)
    return client


def _words(group: BaseExceptionGroup[BaseException]) -> str:
    first: BaseException = group
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return str(first) or type(first).__name__
