"""The host's end of the channel against a peer that may send anything."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import AsyncIterator, Iterator

import anyio
import anyio.lowlevel
import pytest
from engine_kit import open_descriptors

from atoll.engine.channel import PACKET, GuestChannel
from atoll.model import AtollError, FileNotFound, GuestBroken, SandboxDied, SandboxError
from atoll.testing.waiting import eventually

pytestmark = pytest.mark.anyio


class Peer:
    """The guest's end, and what the host's end told its owner."""

    def __init__(self) -> None:
        ours, self.sock = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        self._ours = ours
        self.exits: list[tuple[int, int]] = []
        self.broken: list[SandboxError] = []
        self.channel = GuestChannel(ours, "box", self._exited, self.broken.append)

    def _exited(self, pid: int, status: int) -> bool:
        self.exits.append((pid, status))
        return pid != 99

    def send(self, packet: object) -> None:
        self.sock.send(packet if isinstance(packet, bytes) else json.dumps(packet).encode())

    def close(self) -> None:
        self.channel.close(SandboxDied("the test is over"))
        self._ours.close()
        self.sock.close()


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    peer = Peer()
    yield peer
    peer.close()


async def ended(peer: Peer) -> SandboxError:
    await eventually(lambda: peer.channel.ended is not None)
    assert peer.broken == [peer.channel.ended]
    return peer.broken[0]


async def test_a_request_gets_its_own_answer(peer: Peer) -> None:
    first = peer.channel.request("one", {})
    second = peer.channel.request("two", {"x": 1})
    assert json.loads(peer.sock.recv(PACKET)) == {"n": 1, "op": "one"}
    assert json.loads(peer.sock.recv(PACKET)) == {"n": 2, "op": "two", "x": 1}
    peer.send({"n": 2, "ok": {"b": 2}})
    peer.send({"n": 1, "ok": {"a": 1}})
    assert (await first, await second) == ({"a": 1}, {"b": 2})


async def test_an_error_becomes_the_exception_of_its_code(peer: Peer) -> None:
    answer = peer.channel.request("start", {})
    peer.send({"n": 1, "error": {"code": "file_not_found", "message": "no \ud800 such"}})
    with pytest.raises(FileNotFound, match=r"no \? such"):
        await answer
    assert peer.channel.ended is None


async def test_an_unknown_code_is_still_an_error_of_the_sandbox(peer: Peer) -> None:
    answer = peer.channel.request("start", {})
    peer.send({"n": 1, "error": {"code": "made up", "message": "x" * 60000}})
    with pytest.raises(SandboxError) as caught:
        await answer
    assert len(caught.value.message) < 5000


async def test_what_a_reply_creates_is_known_before_its_end_is_reported(peer: Peer) -> None:
    known: list[object] = []
    answer = peer.channel.request("start", {}, on_ok=lambda ok: known.append(ok["pid"]))
    peer.send({"n": 1, "ok": {"pid": 7}})
    peer.send({"event": "exit", "pid": 7, "status": 0})
    await answer
    assert (known, peer.exits) == ([7], [(7, 0)])


@pytest.mark.parametrize(
    "packet",
    [
        b"not json",
        b"[" * 60000,
        b"9" * 60000,
        b"\xff\xfe",
        b"x" * (PACKET + 1),
        {"n": 1},
        [],
        "text",
        {"n": 5, "ok": {}},
        {"n": True, "ok": {}},
        {"n": "1", "ok": {}},
        {"n": 1, "ok": []},
        {"n": 1, "ok": {}, "error": {"code": "x", "message": "y"}},
        {"n": 1, "error": "text"},
        {"n": 1, "error": {"code": 1, "message": "y"}},
        {"event": "surprise"},
        {"event": ["exit"], "pid": 1},
        {"event": "exit", "pid": "1", "status": 0},
        {"event": "exit", "pid": -1, "status": 0},
        {"event": "exit", "pid": 1, "status": 1 << 40},
        {"event": "exit", "pid": 99, "status": 0},
    ],
)
async def test_a_packet_outside_of_the_protocol_breaks_the_channel(
    peer: Peer, packet: object
) -> None:
    answer = peer.channel.request("start", {})
    peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    peer.send(packet)
    assert isinstance(await ended(peer), GuestBroken)
    with pytest.raises(GuestBroken):
        await answer
    with pytest.raises(GuestBroken):
        await peer.channel.request("again", {})


async def test_ready_is_said_once(peer: Peer) -> None:
    peer.send({"event": "ready", "protocol": 1})
    peer.send({"event": "ready", "protocol": 1})
    assert isinstance(await ended(peer), GuestBroken)


async def test_descriptors_never_arrive(peer: Peer) -> None:
    before = open_descriptors()
    socket.send_fds(peer.sock, [b'{"event":"ready","protocol":1}'], [0, 1, 2])
    assert isinstance(await ended(peer), GuestBroken)
    assert open_descriptors() == before


async def test_silence_breaks_the_channel(peer: Peer) -> None:
    with pytest.raises(GuestBroken, match="did not answer `start`"):
        await peer.channel.request("start", {}, timeout=0.05)
    assert isinstance(peer.channel.ended, GuestBroken)


async def test_a_paused_guest_may_be_silent(peer: Peer) -> None:
    peer.channel.paused = True
    answer = peer.channel.request("start", {}, timeout=0.01)
    await anyio.sleep(0.05)
    assert peer.channel.ended is None
    peer.send({"n": 1, "ok": {}})
    assert await answer == {}


async def test_the_end_of_the_guest_is_the_death_of_the_sandbox(peer: Peer) -> None:
    answer = peer.channel.request("start", {})
    peer.sock.close()
    assert isinstance(await ended(peer), SandboxDied)
    with pytest.raises(SandboxDied):
        await answer


async def test_a_large_request_travels_in_a_file(peer: Peer) -> None:
    argv = ["x" * 1000] * 300
    read, write = os.pipe()
    peer.channel.request("start", {"argv": argv, "fds": {"0": 0}}, [read])
    data, fds, _, _ = socket.recv_fds(peer.sock, PACKET, 4)
    head = json.loads(data)
    assert head == {"n": 1, "op": "start", "fds": {"0": 0}, "body_fd": 1}
    with os.fdopen(fds[1], "rb") as body:
        assert json.load(body) == {"argv": argv}
    os.close(fds[0])
    os.close(write)


async def test_a_guest_that_does_not_read_delays_only_its_own_requests(peer: Peer) -> None:
    answers = [peer.channel.request("start", {"fill": "x" * 50000}) for _ in range(40)]
    for n in range(1, 41):
        with anyio.fail_after(5):
            await anyio.wait_readable(peer.sock)
        assert json.loads(peer.sock.recv(PACKET))["n"] == n
        peer.send({"n": n, "ok": {}})
        await anyio.lowlevel.checkpoint()
    for answer in answers:
        assert await answer == {}


async def test_handed_in_descriptors_are_closed_also_if_they_are_never_sent(peer: Peer) -> None:
    before = open_descriptors()
    for _ in range(40):
        read, write = os.pipe()
        os.close(write)
        peer.channel.request("start", {"fill": "x" * 50000}, [read])
    peer.channel.close(SandboxDied("killed"))
    peer.channel.request("start", {}, [os.dup(0)])
    assert open_descriptors() == before


async def test_a_cancelled_waiter_can_come_back(peer: Peer) -> None:
    answer = peer.channel.request("start", {})
    with anyio.move_on_after(0.01):
        await answer
    peer.send({"n": 1, "ok": {"pid": 3}})
    assert await answer == {"pid": 3}


async def test_every_error_of_the_tree_can_come_from_a_guest(peer: Peer) -> None:
    def kinds(root: type[AtollError]) -> Iterator[type[AtollError]]:
        yield root
        for kind in root.__subclasses__():
            yield from kinds(kind)

    for n, kind in enumerate(k for k in kinds(AtollError) if k.__module__ == "atoll.model.errors"):
        answer = peer.channel.request("start", {})
        peer.sock.recv(PACKET)
        peer.send({"n": n + 1, "error": {"code": kind.code, "message": "m"}})
        with pytest.raises(kind):
            await answer
