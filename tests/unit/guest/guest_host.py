"""The host's part in the tests: a real guest without walls, spoken to as the engine does."""

from __future__ import annotations

import array
import json
import os
import pwd
import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MAIN = Path(__file__).parents[3] / "src/atoll/guest/main.py"
ROOT = os.geteuid() == 0
USER = "user" if ROOT else pwd.getpwuid(os.geteuid()).pw_name
UID = 1000 if ROOT else os.geteuid()
SECONDS = 30.0

Packet = dict[str, Any]


class GuestError(Exception):
    """An `error` reply or line."""

    def __init__(self, error: Packet) -> None:
        self.code = error["code"]
        self.message = error["message"]
        super().__init__(f"{self.code}: {self.message}")


class Host:
    """One guest and the host's end of its channel."""

    def __init__(self) -> None:
        self.socket, inner = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(SECONDS)
        command = [sys.executable, "-I", "-S", str(MAIN), "--channel", str(inner.fileno())]
        self.process = subprocess.Popen(command, pass_fds=[inner.fileno()])
        inner.close()
        self.exits: dict[int, Packet] = {}
        self._replies: dict[int, Packet] = {}
        self._n = 0
        self.ready = self.receive()

    def close(self) -> int:
        """Let go of the channel; the guest's exit status."""
        self.socket.close()
        return self.process.wait(SECONDS)

    def receive(self) -> Packet:
        """The next packet."""
        data = self.socket.recv(65536)
        if not data:
            raise EOFError("the guest has closed its channel")
        packet = json.loads(data)
        assert isinstance(packet, dict)
        return packet

    def send(self, packet: object, rights: tuple[int, ...] = ()) -> None:
        """Send anything as JSON."""
        self.send_bytes(json.dumps(packet).encode(), rights)

    def send_bytes(self, data: bytes, rights: tuple[int, ...] = ()) -> None:
        """Send anything."""
        fds = array.array("i", rights)
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)] if rights else []
        self.socket.sendmsg([data], ancillary)

    def post(self, op: str, rights: tuple[int, ...] = (), **fields: Any) -> int:
        """Send a request without waiting; its number."""
        self._n += 1
        self.send({"n": self._n, "op": op, **fields}, rights)
        return self._n

    def answer(self, n: int) -> Packet:
        """The `ok` of request `n`; raises GuestError for an error."""
        while n not in self._replies:
            self._take(self.receive())
        reply = self._replies.pop(n)
        if "error" in reply:
            raise GuestError(reply["error"])
        ok = reply["ok"]
        assert isinstance(ok, dict)
        return ok

    def request(self, op: str, rights: tuple[int, ...] = (), **fields: Any) -> Packet:
        """One request and its answer."""
        return self.answer(self.post(op, rights, **fields))

    def exit_of(self, pid: int) -> Packet:
        """Wait for the exit event of `pid`."""
        while pid not in self.exits:
            self._take(self.receive())
        return self.exits.pop(pid)

    def _take(self, packet: Packet) -> None:
        if packet.get("event") == "exit":
            self.exits[packet["pid"]] = packet
        else:
            self._replies[packet["n"]] = packet

    def start(self, *argv: str, user: str = USER, **fields: Any) -> int:
        """Start a process without descriptors; its pid."""
        pid = self.request("start", argv=list(argv), user=user, **fields)["pid"]
        assert isinstance(pid, int)
        return pid

    def run(self, *argv: str, user: str = USER, **fields: Any) -> tuple[int, str]:
        """Run a process to its end: wait status, and stdout with stderr."""
        with pipe() as (out, inner):
            request = {"argv": list(argv), "user": user, "fds": {"1": 0, "2": 0}, **fields}
            pid = self.request("start", (inner,), **request)["pid"]
            os.close(inner)
            output = read_all(out)
        return self.exit_of(pid)["status"], output.decode()

    def shell(self, script: str, **fields: Any) -> str:
        """What a shell script prints; it must succeed."""
        status, output = self.run("/bin/sh", "-c", script, **fields)
        assert status == 0, output
        return output

    def file(self, do: str, data: bytes = b"", **fields: Any) -> tuple[Packet, bytes]:
        """One file operation: the `ok` of its first line, and the bytes that follow."""
        with pipe() as (out, inner), pipe() as (source, feed):
            request = {"do": do, "user": USER, "fds": {"out": 0, "in": 1}, **fields}
            n = self.post("file", (inner, source), **request)
            os.close(inner)
            os.close(source)
            self.answer(n)
            feed_all(feed, data)
            line, _, rest = read_all(out).partition(b"\n")
        answer = json.loads(line)
        if "error" in answer:
            raise GuestError(answer["error"])
        return answer["ok"], rest

    def refusal(self, op: str, rights: tuple[int, ...] = (), **fields: Any) -> str:
        """The code with which a request is refused."""
        try:
            self.request(op, rights, **fields)
        except GuestError as error:
            return str(error.code)
        raise AssertionError(f"{op} was not refused")

    def file_refusal(self, do: str, data: bytes = b"", **fields: Any) -> str:
        """The code with which a file operation is refused."""
        try:
            self.file(do, data, **fields)
        except GuestError as error:
            return str(error.code)
        raise AssertionError(f"{do} was not refused")


class Watching:
    """A running watch."""

    def __init__(self, host: Host, path: Path, recursive: bool) -> None:
        self.out, inner = os.pipe()
        self._data = b""
        request = {"do": "watch", "path": str(path), "recursive": recursive, "user": USER}
        self.pid = host.request("file", (inner,), fds={"out": 0}, **request)["pid"]
        os.close(inner)
        first = json.loads(self.line())
        if "error" in first:
            os.close(self.out)
            raise GuestError(first["error"])

    def line(self) -> bytes:
        """The next line; raises EOFError at the end."""
        while b"\n" not in self._data:
            if not select.select([self.out], [], [], SECONDS)[0]:
                raise TimeoutError("no event")
            part = os.read(self.out, 1 << 20)
            if not part:
                raise EOFError
            self._data += part
        line, _, self._data = self._data.partition(b"\n")
        return line

    def event(self) -> tuple[str, str]:
        """The next event: type and path."""
        event = json.loads(self.line())
        return event["type"], event["path"]

    def until(self, kind: str, path: str) -> list[tuple[str, str]]:
        """All events up to this one."""
        events = [self.event()]
        while events[-1] != (kind, path):
            events.append(self.event())
        return events


@contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe whose ends are closed at the end, if they are not yet."""
    ends = os.pipe()
    identities = [os.fstat(fd).st_ino for fd in ends]
    try:
        yield ends
    finally:
        for fd, identity in zip(ends, identities, strict=True):
            try:
                if os.fstat(fd).st_ino == identity:
                    os.close(fd)
            except OSError:
                continue


def read_all(fd: int) -> bytes:
    """Everything until the other ends are closed."""
    parts: list[bytes] = []
    while True:
        if not select.select([fd], [], [], SECONDS)[0]:
            raise TimeoutError("the pipe stays open")
        part = os.read(fd, 1 << 20)
        if not part:
            return b"".join(parts)
        parts.append(part)


def feed_all(fd: int, data: bytes) -> None:
    """Write everything and close; a reader that is gone is no error."""
    view = memoryview(data)
    try:
        while view:
            view = view[os.write(fd, view) :]
    except BrokenPipeError:
        pass
    finally:
        os.close(fd)
