"""The vault of a named owner: a process that holds copies of its sandboxes' descriptors.

A guest ends when its channel ends. While the vault holds the host's end too, sandboxes outlive an
owner that crashed or is being updated, until the owner comes back and takes them, or is overdue.
Run as a program, on the standard library alone: ENGINE LISTENER LOCK PATIENCE.
"""

from __future__ import annotations

import json
import os
import select
import socket
import struct
import sys
import time

PACKET = 1 << 17
MOST_DESCRIPTORS = 32


class Vault:
    """Entries by key: what the engine said of each, and its descriptors."""

    def __init__(self, engine: socket.socket, listener: socket.socket, patience: float) -> None:
        self._engine: socket.socket | None = engine
        self._listener = listener
        self._patience = patience
        self._deadline = 0.0
        self._entries: dict[str, tuple[object, list[int]]] = {}

    def run(self) -> None:
        """Serve until the engine says `end`, or is gone for longer than the patience."""
        while True:
            if self._engine is not None:
                # Who comes next waits until all that this one has said is done.
                if not self._take_order(self._engine):
                    return
                continue
            left = max(0.0, self._deadline - time.monotonic())
            if not select.select([self._listener], [], [], left)[0]:
                return
            self._meet()

    def _take_order(self, engine: socket.socket) -> bool:
        try:
            data, fds, _, _ = socket.recv_fds(engine, PACKET, MOST_DESCRIPTORS)
        except OSError:  # ECONNRESET: it died with our answer unread
            data, fds = b"", []
        if not data:
            engine.close()
            self._engine = None
            self._deadline = time.monotonic() + self._patience
            return True
        order = json.loads(data)
        key = order.get("key", "")
        if order["op"] == "hold":
            self._drop(key)
            self._entries[key] = (order["state"], fds)
        elif order["op"] == "note" and key in self._entries:
            self._entries[key] = (order["state"], self._entries[key][1])
        elif order["op"] == "drop":
            for known in [k for k in self._entries if k == key or k.startswith(key + ":")]:
                self._drop(known)
        return bool(order["op"] != "end")

    def _drop(self, key: str) -> None:
        for fd in self._entries.pop(key, (None, []))[1]:
            os.close(fd)

    def _meet(self) -> None:
        """A new engine, if it is of the same user."""
        peer, _ = self._listener.accept()
        size = struct.calcsize("3i")
        told = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
        if struct.unpack("3i", told)[1] != os.geteuid():
            peer.close()
            return
        self._engine = peer
        try:
            for key, (state, fds) in self._entries.items():
                packet = json.dumps({"key": key, "state": state}).encode()
                socket.send_fds(peer, [packet], fds)
            peer.send(b"{}")
        except OSError:
            return  # it has gone again, which its socket tells next


def main() -> None:
    """Be the vault that the command line describes."""
    engine, listener, _lock = (int(word) for word in sys.argv[1:4])
    Vault(socket.socket(fileno=engine), socket.socket(fileno=listener), float(sys.argv[4])).run()


if __name__ == "__main__":
    main()
