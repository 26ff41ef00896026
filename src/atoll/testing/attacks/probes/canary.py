"""A victim: serves a token on every door it can open, and records whoever touches it.

The same program stands on the host and in the neighbour's sandbox.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from functools import partial

from atoll.testing.attacks.probes.kit import LIBC, Facts, Outcome, call, held

_SIGNALS = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


def serve(facts: Facts) -> Outcome:
    """Open the doors, say on stdout which they are, record events until stdin ends."""
    token = facts["token"].encode()
    record = _recorder(os.path.join(facts["directory"], "events"))
    for number in _SIGNALS:
        signal.signal(number, lambda got, _: record(f"signal {got}"))
    secret = os.path.join(facts["directory"], facts["name"])
    with open(secret, "wb") as file:
        file.write(token)
    os.chmod(secret, 0o644)
    doors = {"pid": os.getpid(), "path": secret, **_sockets(facts, token, record)}
    doors["key"] = _shared_memory(token)
    print(json.dumps(doors), flush=True)
    # Signals interrupt the wait; it goes on (PEP 475) until the one who started us closes stdin.
    while sys.stdin.buffer.read(1):
        pass
    time.sleep(facts.get("linger", 0))
    _remove_shared_memory(doors["key"])
    return held("served")


def _recorder(path: str) -> Callable[[str], None]:
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o644)

    def record(event: str) -> None:
        os.write(descriptor, f"{event}\n".encode())

    return record


def _sockets(facts: Facts, token: bytes, record: Callable[[str], None]) -> Facts:
    tcp = socket.create_server(("127.0.0.1", 0))
    port = tcp.getsockname()[1]
    streams = [tcp]
    datagrams = []
    for family, address in ((socket.AF_INET6, "::1"), *_own_addresses(facts)):
        with contextlib.suppress(OSError):
            streams.append(socket.create_server((address, port), family=family))
    for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        with contextlib.suppress(OSError):
            udp = socket.socket(family, socket.SOCK_DGRAM)
            udp.bind((address, port))
            datagrams.append(udp)
    abstract = facts["name"]
    path = os.path.join(facts["directory"], "socket")
    for name in ("\0" + abstract, path):
        unix = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        unix.bind(name)
        unix.listen(64)
        streams.append(unix)
    os.chmod(path, 0o777)
    for stream in streams:
        _thread(partial(_accept, stream, token, record))
    for datagram in datagrams:
        _thread(partial(_answer, datagram, token, record))
    return {"port": port, "abstract": abstract, "socket": path}


def _own_addresses(facts: Facts) -> list[tuple[int, str]]:
    return [(socket.AF_INET, address) for address in facts.get("addresses", ())]


def _thread(run: Callable[[], None]) -> None:
    threading.Thread(target=run, daemon=True).start()


def _accept(listener: socket.socket, token: bytes, record: Callable[[str], None]) -> None:
    while True:
        connection, _ = listener.accept()
        record(f"connection to {listener.getsockname()!r}")
        with contextlib.suppress(OSError):
            connection.sendall(token)
        connection.close()


def _answer(listener: socket.socket, token: bytes, record: Callable[[str], None]) -> None:
    while True:
        _, sender = listener.recvfrom(4096)
        record(f"datagram to {listener.getsockname()!r}")
        listener.sendto(token, sender)


def _shared_memory(token: bytes) -> int:
    """A System V segment with the token; its key is our pid's, so that two never clash."""
    key = 0x41540000 | os.getpid() & 0xFFFF
    identifier, _ = call("shmget", key, 4096, 0o1666)
    if identifier >= 0:
        LIBC.shmat.restype = ctypes.c_void_p
        address = LIBC.shmat(identifier, None, 0)
        ctypes.memmove(address, token, len(token))
    return key


def _remove_shared_memory(key: int) -> None:
    identifier, _ = call("shmget", key, 0, 0)
    if identifier >= 0:
        call("shmctl", identifier, 0, None)
