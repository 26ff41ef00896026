"""The proxy as the engine has it: its own process, with clients in a network namespace."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.to_thread
import inside
import pytest
from egress_kit import LOOPBACK, PATIENCE, echo_server

from atoll.egress import Egress
from atoll.model import (
    InvalidArgument,
    NetworkPolicy,
    NetworkUnavailable,
    SandboxNotFound,
)

pytestmark = pytest.mark.anyio

NAMED = NetworkPolicy(allow_internet_access=False, allow_out=("a.example", LOOPBACK))
HELLO = "SSH-2.0-hello\r\n"


@dataclass
class Inside:
    """The sandbox's side, and the descriptors that a host has of it."""

    control: socket.socket
    tcp: int
    dns_udp: int
    dns_tcp: int
    own: tuple[str, ...] = (inside.OWN, inside.LISTENER)

    async def _do(self, **order: object) -> str:
        self.control.send(json.dumps(order).encode())
        return (await anyio.to_thread.run_sync(self.control.recv, 65536)).decode()

    async def ask(self, name: str, seconds: float = inside.SECONDS) -> str:
        return await self._do(do="ask", name=name, seconds=seconds)

    async def say(self, address: str, port: int, data: str = HELLO) -> str:
        return await self._do(do="say", address=address, port=port, data=data)


@pytest.fixture
def guest() -> Iterator[Inside]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(PATIENCE)
    with theirs:
        child = subprocess.Popen(
            [sys.executable, "-I", "-S", inside.__file__, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
        )
    with ours:
        _, fds, _, _ = socket.recv_fds(ours, 10, 3)
        tcp, dns_udp, dns_tcp = fds
        yield Inside(ours, tcp, dns_udp, dns_tcp)
        for fd in fds:
            os.close(fd)
    assert child.wait(PATIENCE) == 0


@pytest.fixture
async def egress(tmp_path: Path) -> AsyncIterator[Egress]:
    hosts, resolv_conf = tmp_path / "hosts", tmp_path / "resolv.conf"
    hosts.write_text(f"{LOOPBACK} a.example b.example evil.test\n")
    resolv_conf.write_text("")
    proxy = Egress(tmp_path / "data", hosts=hosts, resolv_conf=resolv_conf)
    await proxy.start()
    yield proxy
    await proxy.close()
    assert proxy.pid is None


def status(pid: int | None) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


async def test_a_name_is_reached_from_a_network_of_its_own(egress: Egress, guest: Inside) -> None:
    async with echo_server() as port:
        await egress.add("s", guest, NAMED, guest.own)
        address = await guest.ask("a.example")

        assert address.startswith("198.18.")
        assert await guest.say(address, port) == HELLO
        assert await guest.ask("evil.test") == "code 3"
        report = await egress.report("s")

    assert (report.bytes_out, report.bytes_in) == (len(HELLO), len(HELLO))
    assert (report.opened, report.refused, report.dns_queries) == (1, 0, 2)


async def test_a_request_for_another_host_is_cut(egress: Egress, guest: Inside) -> None:
    async with echo_server() as port:
        await egress.add("s", guest, NAMED, guest.own)
        address = await guest.ask("a.example")
        request = "GET / HTTP/1.1\r\nHost: evil.test\r\n\r\n"

        assert await guest.say(address, port, request) == "ConnectionResetError"


async def test_addresses_are_reached_as_the_client_meant_them(
    egress: Egress, guest: Inside
) -> None:
    """The kernel says where a redirected connection was to go."""
    await egress.add("s", guest, NetworkPolicy.internet(), guest.own)

    for address in ("169.254.169.254", "10.9.9.9", inside.OWN, inside.LISTENER):
        assert await guest.say(address, 81) == "ConnectionResetError"
    log = (await egress.report("s")).log

    assert [(record.target, record.port, record.verdict) for record in log] == [
        (address, 81, "refused")
        for address in ("169.254.169.254", "10.9.9.9", inside.OWN, inside.LISTENER)
    ]


async def test_a_connection_to_the_listener_itself_is_refused(
    egress: Egress, guest: Inside
) -> None:
    with socket.socket(fileno=os.dup(guest.tcp)) as listener:
        port = listener.getsockname()[1]
    await egress.add("s", guest, NetworkPolicy(allow_out=(LOOPBACK,)), guest.own)

    assert await guest.say(LOOPBACK, port) == "ConnectionResetError"
    assert (await egress.report("s")).refused == 1


async def test_an_update_reaches_the_proxy(egress: Egress, guest: Inside) -> None:
    async with echo_server() as port:
        await egress.add("s", guest, NetworkPolicy(allow_internet_access=False), guest.own)
        assert await guest.ask("a.example") == "code 3"

        assert await egress.update("s", NAMED) == 0
        assert await guest.say(await guest.ask("a.example"), port) == HELLO


async def test_a_removed_sandbox_is_cut_off_and_its_last_report_told(
    egress: Egress, guest: Inside
) -> None:
    await egress.add("s", guest, NAMED, guest.own)
    await guest.ask("a.example")

    report = await egress.remove("s")

    assert report is not None
    assert report.dns_queries == 1
    assert await egress.remove("s") is None
    with pytest.raises(SandboxNotFound):
        await egress.report("s")


async def test_the_proxy_has_no_rights(egress: Egress) -> None:
    told = status(egress.pid)

    assert told["CapEff"] == told["CapPrm"] == told["CapInh"] == "0000000000000000"
    assert told["NoNewPrivs"] == "1"
    assert told["Threads"] == "1"
    if os.getuid() == 0:
        assert set(told["Uid"].split()).isdisjoint({"0", "65534"})
        assert told["Groups"] == ""
        # Standard streams, the control socket, the event loop's epoll and its pair of sockets.
        assert len(list(Path(f"/proc/{egress.pid}/fd").iterdir())) <= 7


async def test_without_its_proxy_nothing_leaves(egress: Egress, guest: Inside) -> None:
    await egress.add("s", guest, NAMED, guest.own)
    assert egress.pid is not None
    os.kill(egress.pid, signal.SIGKILL)

    with pytest.raises(NetworkUnavailable, match="nothing leaves"):
        while True:
            await egress.report("s")
    assert not egress.alive
    assert await guest.ask("a.example", 0.3) == "TimeoutError"


async def test_a_policy_too_long_for_a_packet_is_refused(egress: Egress, guest: Inside) -> None:
    label = "a" * 60
    names = tuple(f"n{i}.{label}.{label}.{label}.example" for i in range(1000))
    with pytest.raises(InvalidArgument, match="too long"):
        await egress.add(
            "s",
            guest,
            NetworkPolicy(allow_internet_access=False, allow_out=names, deny_out=names),
            guest.own,
        )


async def test_rules_have_an_authority_that_sandboxes_can_trust(
    egress: Egress, guest: Inside
) -> None:
    policy = NetworkPolicy.of(
        {
            "allow_internet_access": False,
            "allow_out": ["a.example", LOOPBACK],
            "rules": [{"host": "a.example", "headers": {"X": "y"}}],
        }
    )
    assert policy is not None
    await egress.add("s", guest, policy, guest.own)

    assert "BEGIN CERTIFICATE" in await egress.authority_certificate()
    assert await guest.say(await guest.ask("a.example"), 443, "GET / HTTP/1.1\r\n\r\n") == (
        "ConnectionResetError"
    )


async def test_a_proxy_that_was_not_started_refuses(tmp_path: Path, guest: Inside) -> None:
    with pytest.raises(NetworkUnavailable, match="not running"):
        await Egress(tmp_path).add("s", guest, NAMED, guest.own)
