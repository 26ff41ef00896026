"""Requests that are wrong: each is refused by name, and the guest goes on."""

from __future__ import annotations

import array
import json
import os
import select
import socket
from pathlib import Path
from typing import Any

import pytest
from guest_host import USER, Host

TRUE: dict[str, Any] = {"op": "start", "argv": ["/bin/true"], "user": USER}
STAT: dict[str, Any] = {"op": "file", "do": "stat", "path": "/", "user": USER, "fds": {"out": 0}}


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        ({}, "invalid_argument"),
        ({"op": None}, "invalid_argument"),
        ({"op": "no such"}, "invalid_argument"),
        ({"op": "__init__"}, "invalid_argument"),
        ({"op": "configure", "env": []}, "invalid_argument"),
        ({"op": "configure", "rlimits": {"stack": 1}}, "invalid_argument"),
        ({"op": "configure", "rlimits": {"nofile": -1}}, "invalid_argument"),
        ({"op": "configure", "rlimits": []}, "invalid_argument"),
        ({"op": "start"}, "invalid_argument"),
        (TRUE | {"argv": []}, "invalid_argument"),
        (TRUE | {"argv": [""]}, "invalid_argument"),
        (TRUE | {"argv": ["a", 1]}, "invalid_argument"),
        (TRUE | {"argv": "true"}, "invalid_argument"),
        (TRUE | {"argv": ["/bin/true", "a\0b"]}, "invalid_argument"),
        (TRUE | {"argv": ["/bin/true", "\ud800"]}, "invalid_argument"),
        (TRUE | {"env": {"A": 1}}, "invalid_argument"),
        (TRUE | {"env": {"A=": "1"}}, "invalid_argument"),
        (TRUE | {"env": {"": "1"}}, "invalid_argument"),
        (TRUE | {"env": {"A": "\0"}}, "invalid_argument"),
        (TRUE | {"cwd": "a\0b"}, "invalid_path"),
        (TRUE | {"cwd": ""}, "invalid_path"),
        (TRUE | {"cwd": "/" + "x" * 5000}, "invalid_path"),
        (TRUE | {"cwd": 1}, "invalid_argument"),
        (TRUE | {"user": "no such user"}, "unknown_user"),
        (TRUE | {"user": "4294967295"}, "unknown_user"),
        (TRUE | {"user": "-1"}, "unknown_user"),
        (TRUE | {"user": "a\0b"}, "unknown_user"),
        (TRUE | {"user": 1000}, "invalid_argument"),
        (TRUE | {"fds": {"0": 0}}, "invalid_argument"),
        (TRUE | {"fds": {"0": -1}}, "invalid_argument"),
        (TRUE | {"fds": {"64": 0}}, "invalid_argument"),
        (TRUE | {"fds": {"-1": 0}}, "invalid_argument"),
        (TRUE | {"fds": {"²": 0}}, "invalid_argument"),
        (TRUE | {"fds": [0]}, "invalid_argument"),
        (TRUE | {"tty": True}, "invalid_argument"),
        (TRUE | {"tty": "yes"}, "invalid_argument"),
        (TRUE | {"body_fd": 0}, "invalid_argument"),
        (TRUE | {"body_fd": "x"}, "invalid_argument"),
        (STAT, "invalid_argument"),
        (STAT | {"do": "no such"}, "invalid_argument"),
        (STAT | {"fds": {}}, "invalid_argument"),
        ({"op": "signal"}, "invalid_argument"),
        ({"op": "signal", "pid": 2, "signal": "KILL"}, "invalid_argument"),
        ({"op": "signal", "pid": True, "signal": 9}, "invalid_argument"),
        ({"op": "shutdown", "grace": -1}, "invalid_argument"),
        ({"op": "shutdown", "grace": "now"}, "invalid_argument"),
        ({"op": "context"}, "invalid_argument"),
        ({"op": "context", "language": "cobol"}, "unknown_language"),
    ],
)
def test_a_wrong_request_is_refused(host: Host, request_: dict[str, Any], code: str) -> None:
    host.send({"n": 7} | request_)
    reply = host.receive()
    assert (reply["n"] or 7, reply["error"]["code"]) == (7, code)
    assert host.run("/bin/true") == (0, "")


@pytest.mark.parametrize("data", [b"\xff", b"[]", b"{", b'"x"', b"null", b"[" * 60_000])
def test_what_is_no_request_is_refused_without_a_number(host: Host, data: bytes) -> None:
    host.send_bytes(data)
    reply = host.receive()
    assert (reply["n"], reply["error"]["code"]) == (0, "invalid_argument")
    assert host.run("/bin/true") == (0, "")


def test_a_packet_that_is_too_long_is_refused(host: Host) -> None:
    host.send_bytes(json.dumps({"n": 1, "op": "start", "argv": ["x" * 70_000]}).encode())
    assert host.receive()["error"]["code"] == "invalid_argument"
    assert host.run("/bin/true") == (0, "")


def test_refused_requests_keep_no_descriptor(host: Host) -> None:
    def count() -> int:
        # From outside: the guest's directory is closed to all but root, its limits are not.
        return len(list(Path(f"/proc/{host.process.pid}/fd").iterdir()))

    if os.geteuid() != 0:
        pytest.skip("nobody else may look at what the guest holds")
    before = count()
    null = os.open("/dev/null", os.O_RDONLY)
    for request in (TRUE | {"argv": []}, {"op": "x"}, STAT | {"do": "x"}, TRUE | {"user": "?"}):
        host.send({"n": 1} | request, (null, null, null))
        host.receive()
    host.send_bytes(b"[]", (null,))
    host.receive()
    host.run("/bin/true")
    os.close(null)
    assert count() == before


def test_events_wait_for_a_host_that_is_slow(host: Host) -> None:
    numbers = [host.post("start", argv=["/bin/true"], user=USER) for _ in range(100)]
    # More than the sockets hold, before the first reply is read.
    sent = 0
    while sent < 20_000 and select.select([], [host.socket], [], 0.5)[1]:
        sent += 1
        host.send({"n": 1000 + sent, "op": "no such operation"})
    assert sent > 1000
    for n in numbers:
        host.exit_of(host.answer(n)["pid"])
    assert host.run("/bin/true") == (0, "")


def test_a_channel_without_a_host_ends_the_program() -> None:
    host = Host()
    host.socket.shutdown(socket.SHUT_RDWR)
    assert host.process.wait(10) == 0
    host.close()


def test_descriptors_without_a_request_are_closed(host: Host) -> None:
    fds = array.array("i", [0])
    host.socket.sendmsg([b""], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
    assert host.receive()["error"]["code"] == "invalid_argument"
