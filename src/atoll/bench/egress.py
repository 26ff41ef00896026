"""Connections through the egress proxy: how many bytes a second, and how long a new one takes."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import anyio
import anyio.to_thread

from atoll.bench import egress_program
from atoll.bench.report import Row
from atoll.bench.samples import Step, Stopwatch, interleave, summarise

_LOOPBACK = "127.0.0.1"
_PATIENCE = 30.0
_MB = 1e6
_SOCAT = "socat TCP-LISTEN,fork TCP"


@dataclass(frozen=True)
class _Way:
    """A way to the server: its port and how a row names it."""

    key: str
    name: str
    port: int


async def egress_rows(size: int, rounds: int) -> tuple[list[Row], list[Row]]:
    """Bytes and new connections through the proxy, straight, and through socat, in turn.

    Args:
        size: bytes of one download.
        rounds: how many new connections; a fifth as many downloads.
    """
    with ExitStack() as stack:
        server = stack.enter_context(_server(size))
        ways = [
            _Way("egress", "through the egress proxy", stack.enter_context(_proxy(server))),
            _Way("direct", "straight over loopback", server),
        ]
        if shutil.which("socat"):
            ways.append(_Way("socat", f"`{_SOCAT}`", stack.enter_context(_socat(server))))
        bulk = {way.key: _step(_download, way.port, size) for way in ways}
        fresh = {way.key: _step(_new_connection, way.port, 1) for way in ways}
        bytes_taken = await interleave(bulk, rounds=max(5, rounds // 5), warm_up=2)
        fresh_taken = await interleave(fresh, rounds=rounds, warm_up=max(5, rounds // 10))
    rows = []
    for way in ways:
        name = f"download {way.name}"
        rows.append(Row(f"{way.key}_bytes", name, "MB/s", summarise(bytes_taken[way.key])))
        name = f"a new connection and its first byte, {way.name}"
        rows.append(Row(f"{way.key}_connect", name, "ms", summarise(fresh_taken[way.key])))
    ours, peers = rows[:2], rows[2:]
    if "socat" not in bulk:
        peers.append(Row("socat_bytes", f"`{_SOCAT}`", "MB/s", skipped="socat is not installed"))
    ours = [_beside(row, peers) for row in ours]
    return ours, peers


def _beside(row: Row, peers: list[Row]) -> Row:
    kind = row.key.rpartition("_")[2]
    return replace(row, beside=tuple(peer.key for peer in peers if peer.key.endswith(kind)))


def _step(measure: Callable[[int, int], float], port: int, count: int) -> Step:
    async def once() -> float:
        return await anyio.to_thread.run_sync(measure, port, count)

    return once


def _fetch(sock: socket.socket, count: int) -> None:
    sock.sendall(b"%d\n" % count)
    buffer = bytearray(1 << 20)
    while count:
        got = sock.recv_into(buffer)
        if not got:
            raise RuntimeError(f"the download ended {count} bytes early")
        count -= got


def _download(port: int, count: int) -> float:
    """Megabytes a second, after the connection stands."""
    with socket.create_connection((_LOOPBACK, port), _PATIENCE) as sock:
        _fetch(sock, 1)
        watch = Stopwatch()
        _fetch(sock, count)
        return count / _MB / (watch.ms / 1e3)


def _new_connection(port: int, count: int) -> float:
    watch = Stopwatch()
    with socket.create_connection((_LOOPBACK, port), _PATIENCE) as sock:
        _fetch(sock, count)
        return watch.ms


@contextmanager
def _server(size: int) -> Iterator[int]:
    """Sends as many bytes as each line asks for, from memory; its port."""
    content = os.memfd_create("download")
    os.truncate(content, size)
    with socket.create_server((_LOOPBACK, 0), backlog=64) as listener:
        thread = threading.Thread(target=_accept, args=(listener, content), daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(_PATIENCE)
    os.close(content)


def _accept(listener: socket.socket, content: int) -> None:
    while True:
        try:
            client, _ = listener.accept()
        except OSError:  # shut down: the measurement is over
            return
        threading.Thread(target=_answer, args=(client, content), daemon=True).start()


def _answer(client: socket.socket, content: int) -> None:
    with client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while line := client.recv(100):
            left, at = int(line), 0
            while left:
                sent = os.sendfile(client.fileno(), content, at, left)
                at, left = at + sent, left - sent


@contextmanager
def _proxy(server: int) -> Iterator[int]:
    with socket.create_server((_LOOPBACK, 0), backlog=64) as listener:
        port: int = listener.getsockname()[1]
        words = [sys.executable, "-I", egress_program.__file__, str(listener.fileno()), str(server)]
        with _running(words, listener.fileno()):
            _new_connection(port, 1)  # it listens since before it runs
            yield port


@contextmanager
def _socat(server: int) -> Iterator[int]:
    with socket.create_server((_LOOPBACK, 0)) as reserved:
        port: int = reserved.getsockname()[1]
    options = f"TCP-LISTEN:{port},bind={_LOOPBACK},fork,reuseaddr,nodelay"
    with _running(["socat", options, f"TCP:{_LOOPBACK}:{server},nodelay"]):
        for _ in range(200):
            try:
                _new_connection(port, 1)
                break
            except ConnectionRefusedError:
                threading.Event().wait(0.01)
        yield port


@contextmanager
def _running(words: list[str], *fds: int) -> Iterator[None]:
    child = subprocess.Popen(words, pass_fds=fds, stdin=subprocess.DEVNULL)
    try:
        yield
    finally:
        child.terminate()
        child.wait(_PATIENCE)
