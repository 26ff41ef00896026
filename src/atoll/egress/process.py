"""The proxy's process: orders from the engine, an outlet for each sandbox."""

from __future__ import annotations

import gc
import os
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any

import anyio
import anyio.abc
import dns.rdata

from atoll.egress import privileges
from atoll.egress.addresses import parse_address
from atoll.egress.authority import Authority, Issuer
from atoll.egress.outlet import HostResolution, Outlet, Sockets
from atoll.egress.relay import Pipes
from atoll.model import NetworkPolicy
from atoll.wire import packets

_REMOVE_SECONDS = 5.0


class _Seat:
    """An outlet while it is served."""

    def __init__(self, outlet: Outlet, sockets: Sockets) -> None:
        self.outlet = outlet
        self._sockets = sockets
        self._scope = anyio.CancelScope()
        self._done = anyio.Event()

    async def run(self) -> None:
        try:
            with self._scope:
                await self.outlet.run(self._sockets)
        finally:
            self._sockets.close()
            self._done.set()

    async def end(self) -> None:
        self._scope.cancel()
        await self._done.wait()


class Proxy:
    """Serves every sandbox of one engine."""

    def __init__(self, control: socket.socket, tasks: anyio.abc.TaskGroup) -> None:
        self._control = control
        self._tasks = tasks
        self._seats: dict[str, _Seat] = {}
        self._pipes = Pipes()
        self._issuer: Issuer | None = None

    async def serve(self) -> None:
        """Take orders until the engine is gone."""
        while True:
            await anyio.wait_readable(self._control)
            try:
                packet, fds = packets.receive(self._control)
            except BlockingIOError:
                continue
            if packet is None:
                return
            await self._answer(packet, fds)

    async def _answer(self, packet: dict[str, Any], fds: list[int]) -> None:
        try:
            answer = await self._obey(packet, fds)
        except Exception as error:  # told to the engine, which raises it
            answer = {"error": f"{type(error).__name__}: {error}"}
        finally:
            for fd in fds:
                os.close(fd)
        while True:
            try:
                packets.send(self._control, answer | {"n": packet["n"]})
                return
            except BlockingIOError:
                await anyio.wait_writable(self._control)

    async def _obey(self, packet: dict[str, Any], fds: list[int]) -> dict[str, Any]:
        match packet["op"]:
            case "hello":
                return {"uid": os.geteuid()}
            case "add":
                self._add(packet, fds)
                return {}
            case "update":
                policy = self._policy(packet)
                return {"cut": self._seats[packet["id"]].outlet.update(policy, self._issuer)}
            case "report":
                return {"report": asdict(self._seats[packet["id"]].outlet.report())}
            case "remove":
                seat = self._seats.pop(packet["id"], None)
                if seat is None:
                    return {"report": None}
                await seat.end()
                return {"report": asdict(seat.outlet.report())}
        raise ValueError(f"unknown order {packet['op']!r}")

    def _policy(self, packet: dict[str, Any]) -> NetworkPolicy:
        policy = NetworkPolicy(**packet["policy"])
        if packet["authority"] is not None and self._issuer is None:
            self._issuer = Issuer(Authority(**packet["authority"]))
        return policy

    def _add(self, packet: dict[str, Any], fds: list[int]) -> None:
        if packet["id"] in self._seats:
            raise ValueError("this sandbox is there already")
        outlet = Outlet(
            self._policy(packet),
            frozenset(parse_address(text) for text in packet["own"]),
            pipes=self._pipes,
            host=HostResolution(tuple(packet["servers"]), packet["names"]),
            issuer=self._issuer,
        )
        tcp, dns_udp, dns_tcp = _sockets(fds)
        seat = self._seats[packet["id"]] = _Seat(outlet, Sockets(tcp, dns_udp, dns_tcp))
        self._tasks.start_soon(seat.run)


def _sockets(fds: Sequence[int]) -> list[socket.socket]:
    if len(fds) != 3:
        raise ValueError(f"{len(fds)} descriptors instead of 3")
    sockets = [socket.socket(fileno=os.dup(fd)) for fd in fds]
    for sock in sockets:
        os.set_inheritable(sock.fileno(), False)
        sock.setblocking(False)
    return sockets


async def _serve(control: int) -> None:
    with socket.socket(fileno=control) as sock:
        sock.setblocking(False)
        async with anyio.create_task_group() as tasks:
            await Proxy(sock, tasks).serve()
            tasks.cancel_scope.cancel()


def run(control: int) -> None:
    """Be the proxy of the engine at the other end of `control`, until that is gone."""
    # What is imported when it is first needed could not be read any more, or would be by then
    # in a process that has read a guest's bytes.
    dns.rdata.load_all_types()  # type: ignore[no-untyped-call]
    _import_backend()
    privileges.drop()
    gc.freeze()
    with suppress(KeyboardInterrupt):
        anyio.run(_serve, control)
    sys.exit(0)


def _import_backend() -> None:
    async def nothing() -> None:
        return

    anyio.run(nothing)
