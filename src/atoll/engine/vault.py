"""The engine's way to its vault (see vault_program), which only named owners have."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from atoll.engine import vault_program
from atoll.engine.unix_sockets import connected, listening

PATIENCE_SECONDS = 60.0
"""How long sandboxes outlive an owner that does not come back."""

_SEND_SECONDS = 5.0
_LARGEST_STATE = 60_000

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """Something that the vault held; the descriptors are the receiver's."""

    key: str
    state: dict[str, Any]
    fds: list[int]


class Vault:
    """Keeps copies of descriptors and a few words about them in another process."""

    def __init__(
        self, sock: socket.socket | None = None, child: subprocess.Popen[bytes] | None = None
    ) -> None:
        self._child = child
        if sock is not None:
            sock.settimeout(_SEND_SECONDS)
        self._sock = sock

    @property
    def active(self) -> bool:
        """False for one that keeps nothing."""
        return self._sock is not None

    @classmethod
    def start(cls, directory: Path, patience: float = PATIENCE_SECONDS) -> Self:
        """Start the vault of the owner in `directory`. Blocks for some milliseconds."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        lock = os.open(directory / "vault.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with theirs, listening(directory / "vault", socket.SOCK_SEQPACKET, 4) as listener:
                kept = [theirs.fileno(), listener.fileno(), lock]
                words = [*map(str, kept), str(patience)]
                # Its own session: what ends the owner's process group leaves it alone.
                child = subprocess.Popen(
                    [sys.executable, "-I", "-S", vault_program.__file__, *words],
                    pass_fds=kept,
                    env={},
                    cwd="/",
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,
                )
        except BaseException:
            ours.close()
            raise
        finally:
            os.close(lock)
        return cls(ours, child)

    @classmethod
    def return_to(cls, directory: Path) -> tuple[Self, list[Entry]]:
        """The vault of a former life, and what it holds. Raises OSError."""
        sock = connected(directory / "vault", socket.SOCK_SEQPACKET, _SEND_SECONDS)
        try:
            entries: list[Entry] = []
            while packet := _receive(sock):
                entries.append(packet)
            return cls(sock), entries
        except BaseException:
            sock.close()
            raise

    def hold(self, key: str, state: dict[str, Any], fds: Sequence[int]) -> None:
        """Keep copies of `fds`, which stay the caller's."""
        self._order({"op": "hold", "key": key, "state": state}, fds)

    def note(self, key: str, state: dict[str, Any]) -> None:
        """Other words about what is kept already."""
        self._order({"op": "note", "key": key, "state": state})

    def drop(self, key: str) -> None:
        """Let go of `key` and of all keys that begin with it and a colon."""
        self._order({"op": "drop", "key": key})

    def end(self) -> None:
        """Let go of everything; the vault ends. May be called twice."""
        self._order({"op": "end"})
        sock, self._sock = self._sock, None
        if sock is not None:
            sock.close()
        child, self._child = self._child, None
        if child is not None:
            try:
                child.wait(_SEND_SECONDS)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()

    def _order(self, order: dict[str, Any], fds: Sequence[int] = ()) -> None:
        if self._sock is None:
            return
        packet = json.dumps(order).encode()
        if len(packet) > _LARGEST_STATE:
            _log.warning("%s is too large to outlive this process", order.get("key"))
            return
        try:
            socket.send_fds(self._sock, [packet], list(fds))
        except OSError as error:
            # Sandboxes then end with this process, as those of every unnamed owner do.
            _log.warning("the vault is gone: %s", error)
            self._sock.close()
            self._sock = None


def is_held(directory: Path) -> bool:
    """True while a vault lives that a dead owner in `directory` can come back to."""
    try:
        lock = os.open(directory / "vault.lock", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def _receive(sock: socket.socket) -> Entry | None:
    """The next entry; None after the last."""
    data, fds, _, _ = socket.recv_fds(sock, vault_program.PACKET, vault_program.MOST_DESCRIPTORS)
    for fd in fds:
        os.set_inheritable(fd, False)
    packet = json.loads(data) if data else {}
    if not packet:
        if not data:
            raise ConnectionError("the vault ended")
        return None
    return Entry(packet["key"], packet["state"], fds)


def close_entries(entries: list[Entry]) -> None:
    """Let go of what nobody wants."""
    for entry in entries:
        for fd in entry.fds:
            with suppress(OSError):
                os.close(fd)
