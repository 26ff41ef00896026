"""Servers for sandboxes to reach, on the host's loopback: names, and what they lead to."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import anyio
import dns.message
import dns.rcode
import dns.rrset

from atoll.engine import Engine, Sandbox
from atoll.engine.network import NetworkChoice
from atoll.model import Limits, NetworkReport


@dataclass(frozen=True)
class Ground:
    """A running engine, and the limits that it can hold here."""

    engine: Engine
    limits: Limits

    async def create(self, network: NetworkChoice = None) -> Sandbox:
        """A sandbox."""
        return await self.engine.create("base", limits=self.limits, network=network)


@contextmanager
def name_server(names: Mapping[str, str]) -> Iterator[str]:
    """A server that knows these names and no others, as ``address:port``."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    thread = threading.Thread(target=_answer, args=(sock, dict(names)))
    thread.start()
    host, port = sock.getsockname()
    try:
        yield f"{host}:{port}"
    finally:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", (host, port))
        thread.join()
        sock.close()


def _answer(sock: socket.socket, names: dict[str, str]) -> None:
    while True:
        data, asker = sock.recvfrom(4096)
        if not data:
            return
        question = dns.message.from_wire(data)
        reply = dns.message.make_response(question)
        name = question.question[0].name
        address = names.get(name.to_text(omit_final_dot=True).lower())
        if address is None:
            reply.set_rcode(dns.rcode.NXDOMAIN)
        elif question.question[0].rdtype == 1:
            reply.answer.append(dns.rrset.from_text(name, 60, "IN", "A", address))
        sock.sendto(reply.to_wire(), asker)


class _Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = f"page of {self.headers['Host']}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        del format, args


@contextmanager
def web_server(address: str = "127.0.0.1") -> Iterator[int]:
    """A web server; its port."""
    with ThreadingHTTPServer((address, 0), _Page) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


async def kill_proxy() -> None:
    """Kill the one egress proxy of this process, and wait for its end."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    (pid,) = [
        int(c) for c in children if b"egress/program.py" in Path(f"/proc/{c}/cmdline").read_bytes()
    ]
    pidfd = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        with anyio.fail_after(20):
            await anyio.wait_readable(pidfd)
    finally:
        os.close(pidfd)


async def reported(sandbox: Sandbox, holds: Callable[[NetworkReport], bool]) -> NetworkReport:
    """The report once `holds` is true of it: the proxy tells nobody when it has changed."""
    with anyio.fail_after(20):
        while not holds(report := await sandbox.network.report()):  # noqa: ASYNC110
            await anyio.sleep(0.01)
    return report
