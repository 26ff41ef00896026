"""Speaks to a guest over its raw channel, as little as a launcher's tests need."""

from __future__ import annotations

import array
import json
import os
import select
import socket
from typing import Any

PATIENCE = 20.0


class RawGuest:
    """One configured guest; `run` starts a command and waits for its end."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._number = 0
        assert self._receive() == {"event": "ready", "protocol": 1}
        environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/home/user"}
        self._ask(
            "configure",
            {"env": environment, "rlimits": {"nofile": 1024, "core": 0}, "cwd": "/"},
        )

    def run(self, script: str, user: str = "user") -> tuple[int, str]:
        """Wait status and output of a shell script."""
        reader, writer = os.pipe()
        null = os.open("/dev/null", os.O_RDONLY)
        try:
            fds = {"0": 0, "1": 1, "2": 1}
            request = {"argv": ["/bin/sh", "-c", script], "user": user, "tty": False, "fds": fds}
            pid = self._ask("start", request, (null, writer))["pid"]
        finally:
            os.close(writer)
            os.close(null)
        with os.fdopen(reader) as output:
            text = output.read()
        while True:
            event = self._receive()
            if event.get("event") == "exit" and event["pid"] == pid:
                return int(event["status"]), text

    def run_on_terminal(self, script: str, slave: int) -> None:
        """Run a script with `slave` as its controlling terminal, to its end."""
        fds = {"0": 0, "1": 0, "2": 0}
        request = {"argv": ["/bin/sh", "-c", script], "user": "user", "tty": True, "fds": fds}
        pid = self._ask("start", request, (slave,))["pid"]
        event = self._receive()
        assert (event["event"], event["pid"]) == ("exit", pid)

    def _ask(self, op: str, request: dict[str, Any], fds: tuple[int, ...] = ()) -> dict[str, Any]:
        self._number += 1
        packet = {"n": self._number, "op": op, "env": {}, "cwd": None, **request}
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self._channel.sendmsg([json.dumps(packet).encode()], rights)
        answer = self._receive()
        assert "ok" in answer, answer
        ok: dict[str, Any] = answer["ok"]
        return ok

    def _receive(self) -> dict[str, Any]:
        assert select.select([self._channel], [], [], PATIENCE)[0], "the guest is silent"
        data = self._channel.recv(1 << 17)
        assert data, "the guest is gone"
        packet: dict[str, Any] = json.loads(data)
        return packet


def has_ended(channel: socket.socket, patience: float = PATIENCE) -> bool:
    """Whether the channel's other side is closed, or becomes so in time."""
    while select.select([channel], [], [], patience)[0]:
        try:
            if not channel.recv(1 << 17):
                return True
        except ConnectionResetError:
            return True
    return False
