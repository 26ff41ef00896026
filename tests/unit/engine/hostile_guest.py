"""A guest that breaks the protocol in the way its first argument says. Run as a program."""

from __future__ import annotations

import array
import contextlib
import json
import os
import socket
import sys
from collections.abc import Callable
from typing import Any

Request = dict[str, Any]


class Hostile:
    """The guest's end of the channel."""

    def __init__(self, fd: int) -> None:
        self.sock = socket.socket(fileno=fd)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)

    def send(self, packet: object) -> None:
        data = packet if isinstance(packet, bytes) else json.dumps(packet).encode()
        self.sock.send(data)

    def request(self) -> tuple[Request, list[int]]:
        """The next request but `configure`, which is answered as it should be."""
        while True:
            data, ancillary, _, _ = self.sock.recvmsg(65536, socket.CMSG_SPACE(256))
            if not data:
                os._exit(0)
            fds = array.array("i")
            for _, _, body in ancillary:
                fds.frombytes(body)
            request = json.loads(data)
            if request["op"] != "configure":
                return request, fds.tolist()
            self.send({"n": request["n"], "ok": {}})


def giant(guest: Hostile) -> None:
    guest.request()
    guest.send(b"x" * 200_000)


def wrong_json(guest: Hostile) -> None:
    guest.request()
    guest.send(b'{"n":')


def wrong_pid(guest: Hostile) -> None:
    request, _ = guest.request()
    guest.send({"n": request["n"], "ok": {"pid": "1"}})


def same_pid(guest: Hostile) -> None:
    for _ in range(2):
        request, _ = guest.request()
        guest.send({"n": request["n"], "ok": {"pid": 5}})


def stray_exit(guest: Hostile) -> None:
    guest.request()
    guest.send({"event": "exit", "pid": 4, "status": 0})


def descriptors(guest: Hostile) -> None:
    guest.request()
    fds = [os.open("/dev/null", os.O_RDWR) for _ in range(100)]
    socket.send_fds(guest.sock, [b'{"n":2,"ok":{"pid":3}}'], fds)


def flood(guest: Hostile) -> None:
    guest.request()
    while True:
        guest.send({"n": 12345, "ok": {}})


def silence(guest: Hostile) -> None:
    guest.request()


def refusal(guest: Hostile) -> None:
    data = json.loads(guest.sock.recv(65536))
    guest.send({"n": data["n"], "error": {"code": "invalid_argument", "message": "no"}})


def never_ends(guest: Hostile) -> None:
    """Start what is asked for, and never report an end."""
    kept = []
    while True:
        request, fds = guest.request()
        kept.append(fds)
        guest.send({"n": request["n"], "ok": {"pid": request["n"]}})


def worker(lines: bytes) -> Callable[[Hostile], None]:
    def run(guest: Hostile) -> None:
        while True:
            request, fds = guest.request()
            guest.send({"n": request["n"], "ok": {"pid": 9} if fds else {}})
            if fds:
                with contextlib.suppress(BrokenPipeError):
                    os.write(fds[0], lines)
                for fd in fds:
                    os.close(fd)

    return run


MISDEEDS: dict[str, Callable[[Hostile], None]] = {
    "giant": giant,
    "wrong_json": wrong_json,
    "wrong_pid": wrong_pid,
    "same_pid": same_pid,
    "stray_exit": stray_exit,
    "descriptors": descriptors,
    "flood": flood,
    "silence": silence,
    "refusal": refusal,
    "never_ends": never_ends,
    "worker_wrong_json": worker(b"{\n"),
    "worker_wrong_types": worker(b'{"ok":{"size":"1","entry":[],"exists":1}}\n'),
    "worker_endless_line": worker(b"x" * 60_000),
    "worker_silent": worker(b""),
    "worker_huge": worker(b'{"ok":{"size":99999999999999}}\n'),
    "worker_error_types": worker(b'{"error":{"code":[],"message":1}}\n'),
    "worker_deep": worker(b"[" * 60_000 + b"\n"),
}

if __name__ == "__main__":
    guest = Hostile(int(sys.argv[3]))
    MISDEEDS[sys.argv[1]](guest)
    while guest.sock.recv(65536):
        continue
