"""Requests to a trusted process: numbered, matched, and never leaking a descriptor."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from atoll.wire import packets
from atoll.wire.packet_port import PacketPort, PortClosed

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    yield mine, theirs
    mine.close()
    theirs.close()


async def test_replies_find_their_requests_in_any_order(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    port = PacketPort(pair[0], "peer")
    one, two = port.request({"a": 1}), port.request({"b": 2})
    first, second = packets.receive(pair[1])[0], packets.receive(pair[1])[0]
    assert first is not None
    assert second is not None
    packets.send(pair[1], {"n": second["n"], "is": "second"})
    packets.send(pair[1], {"n": first["n"], "is": "first"})
    assert (await one)[0]["is"] == "first"
    assert (await two)[0]["is"] == "second"
    port.close()


async def test_a_descriptor_for_a_cancelled_request_is_closed(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    port = PacketPort(pair[0], "peer")
    cancelled, kept = port.request({}), port.request({})
    cancelled.cancel()
    numbers = [(packets.receive(pair[1])[0] or {})["n"] for _ in range(2)]
    read, write = os.pipe()
    packets.send(pair[1], {"n": numbers[0]}, (write,))
    os.close(write)
    packets.send(pair[1], {"n": numbers[1]})
    await kept
    assert os.read(read, 1) == b""
    os.close(read)
    port.close()


async def test_the_peers_end_fails_every_waiting_request(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    port = PacketPort(pair[0], "zygote")
    waiting = port.request({})
    pair[1].close()
    with pytest.raises(PortClosed, match="zygote"):
        await waiting
    with pytest.raises(PortClosed):
        await port.request({})
    assert port.closed


async def test_an_error_of_the_peer_is_raised_with_its_words(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    port = PacketPort(pair[0], "peer")
    asked = port.request({})
    packets.send(pair[1], {"n": (packets.receive(pair[1])[0] or {})["n"], "error": "mount: no"})
    with pytest.raises(OSError, match="mount: no"):
        await asked
    port.close()


def test_a_packet_that_is_too_long_is_refused_before_it_is_sent() -> None:
    with pytest.raises(ValueError, match="longer than"):
        packets.encode({"x": "y" * packets.MAX_PACKET})


def test_received_descriptors_are_closed_on_exec(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    packets.send(pair[0], {"n": 1}, (0,))
    _, fds = packets.receive(pair[1])
    flags = int(Path(f"/proc/self/fdinfo/{fds[0]}").read_text().split("flags:")[1].split()[0], 8)
    assert flags & os.O_CLOEXEC
    os.close(fds[0])
