"""Tokens, and the victim on the host that would give one away if a wall were missing."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from atoll.testing.attacks.probes import canary
from atoll.testing.attacks.probes.kit import Facts
from atoll.testing.attacks.script import compose

_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Token:
    """A secret that must not be seen. Probes are told only its hash."""

    name: str
    digits: str = field(default_factory=lambda: secrets.token_hex(16), repr=False)

    @property
    def text(self) -> str:
        """The secret itself, as it stands in files, environments and answers."""
        return f"ATOLL-CANARY-{self.digits}"

    @property
    def digest(self) -> str:
        """What a probe compares with."""
        return hashlib.sha256(self.digits.encode()).hexdigest()


def canary_program(token: Token, directory: str, addresses: tuple[str, ...] = ()) -> str:
    """The victim's program; it serves until its stdin ends."""
    facts: Facts = {
        "token": token.text,
        "directory": directory,
        "name": f"atoll-canary-{token.name}-{token.digest[:12]}",
        "addresses": addresses,
    }
    return compose(canary.serve, facts)


class HostCanary:
    """The victim on the host: a process with a token in its files, argv, memory and sockets."""

    def __init__(self, addresses: tuple[str, ...] = ()) -> None:
        self.token = Token("host")
        self.doors: dict[str, Any] = {}
        self._addresses = addresses
        self._directory = Path()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> HostCanary:
        self._directory = Path(tempfile.mkdtemp(prefix="atoll-canary-", dir="/var/tmp"))
        self._directory.chmod(0o755)
        program = canary_program(self.token, str(self._directory), self._addresses)
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-c", program, self.token.text],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={"ATOLL_CANARY": self.token.text, "PATH": os.defpath},
            preexec_fn=_die_with_parent,
        )
        assert self._process.stdout is not None
        self.doors = json.loads(self._process.stdout.readline())
        return self

    def __exit__(self, *_: object) -> None:
        process = self._process
        if process is not None:
            assert process.stdin is not None and process.stdout is not None
            process.stdin.close()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdout.close()
        # Never a recursive removal: an attack may have mounted something in here.
        for name in ("events", "socket", Path(self.doors.get("path", "none")).name):
            (self._directory / name).unlink(missing_ok=True)
        self._directory.rmdir()

    @property
    def directory(self) -> str:
        """Where its files are: readable by all, so that only isolation hides them."""
        return str(self._directory)

    def alive(self) -> bool:
        """False if it was killed or stopped."""
        assert self._process is not None
        if self._process.poll() is not None:
            return False
        status = Path(f"/proc/{self._process.pid}/stat").read_text()
        return status.rsplit(")", 1)[1].split()[0] not in ("T", "t", "Z")

    def events(self) -> list[str]:
        """What touched it so far: connections, datagrams, signals."""
        return (self._directory / "events").read_text().splitlines()


def _die_with_parent() -> None:
    # If we are killed, no victim may stay behind on the host.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
