"""What leads into a sandbox, and what out of it, before any policy: see `LaunchedSandbox`."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
from collections.abc import AsyncIterator, Iterator, Sequence

import anyio

from atoll.engine import Sandbox
from atoll.launch import Listeners
from atoll.model import PortRefused
from atoll.testing.contract.case import Case, Subject, raises

_ORIGINAL_DESTINATION = 80
_TRY = """
import json, socket, sys
out = []
for family, kind, protocol, host, port in json.loads(sys.argv[1]):
    try:
        sock = socket.socket(family, kind, protocol)
        sock.settimeout(3)
        sock.connect((host, port))
        sock.send(b"question")
        out.append(sock.recv(100).decode())
    except OSError as error:
        out.append(type(error).__name__ if isinstance(error, TimeoutError) else "")
print(json.dumps(out))
"""
TCP, UDP = (socket.AF_INET, socket.SOCK_STREAM, 0), (socket.AF_INET, socket.SOCK_DGRAM, 0)
TCP6 = (socket.AF_INET6, socket.SOCK_STREAM, 0)

Try = tuple[int, int, int, str, int]


async def a_port_inside_is_reached_from_outside(subject: Subject) -> None:
    serve = (
        "import socket\n"
        "s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True)\n"
        "c, _ = s.accept(); c.sendall(c.recv(100).upper())"
    )
    async with subject.sandbox() as sandbox:
        handle = await sandbox.commands.start([subject.python, "-I", "-c", serve])
        with anyio.fail_after(10):
            async for _ in handle:
                break
        with await sandbox.launched.connect_inside(int(handle.stdout)) as connection:
            assert not connection.getblocking()
            connection.send(b"hello")
            with anyio.fail_after(10):
                await anyio.wait_readable(connection)
            assert connection.recv(100) == b"HELLO"
        assert (await handle.wait()).ok


async def a_port_that_nobody_listens_on_is_refused(subject: Subject) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        free = taken.getsockname()[1]
    async with subject.sandbox() as sandbox:
        await raises(PortRefused, sandbox.launched.connect_inside(free))


async def until_it_is_opened_nothing_leads_out(subject: Subject) -> None:
    async with subject.sandbox() as sandbox:
        tries = [(*TCP, "192.0.2.77", 80), (*UDP, "192.0.2.77", 53), (*TCP6, "2001:db8::1", 80)]
        assert await _tried(sandbox, subject, tries) == ["", "", ""], "refused at once"


async def connections_arrive_at_the_listener_with_their_destination(subject: Subject) -> None:
    async with subject.sandbox() as sandbox, _opened(sandbox):
        mptcp = (socket.AF_INET, socket.SOCK_STREAM, 262)
        tries = [
            (*TCP, "198.51.100.7", 80),
            (*TCP, "169.254.169.254", 443),
            (*TCP6, "::ffff:198.51.100.8", 22),
            (*mptcp, "198.51.100.9", 80),
        ]
        assert await _tried(sandbox, subject, tries) == [
            "198.51.100.7:80",
            "169.254.169.254:443",
            "198.51.100.8:22",
            "198.51.100.9:80",
        ]


async def questions_for_names_arrive_whichever_server_is_asked(subject: Subject) -> None:
    async with subject.sandbox() as sandbox, _opened(sandbox) as listeners:
        server = listeners.addresses[-1]
        tries = [(*UDP, "8.8.8.8", 53), (*UDP, server, 53), (*TCP, "8.8.8.8", 53)]
        assert await _tried(sandbox, subject, tries) == ["udp", "udp", "tcp"]


async def nothing_else_goes_anywhere(subject: Subject) -> None:
    async with subject.sandbox() as sandbox, _opened(sandbox) as listeners:
        own, server = listeners.addresses
        lite = (socket.AF_INET, socket.SOCK_DGRAM, 136)
        tries = [
            (*UDP, "198.51.100.7", 123),
            (*UDP, "224.0.0.251", 5353),
            (*UDP, server, _port(listeners.dns_udp)),
            (*TCP, server, _port(listeners.tcp)),
            (*TCP, server, _port(listeners.dns_tcp)),
            (*TCP, own, _port(listeners.tcp)),
            (*TCP, server, 80),
            (*lite, "198.51.100.7", 53),
            (*TCP6, "2001:db8::1", 80),
        ]
        assert await _tried(sandbox, subject, tries) == [""] * len(tries), "refused at once"


async def its_own_loopback_stays_its_own(subject: Subject) -> None:
    script = """
import socket
for host in ("127.0.0.1", "127.3.2.1", "::1", "10.0.0.2", "localhost"):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as server:
        with socket.create_connection(server.getsockname()[:2], 3) as client:
            server.accept()[0].sendall(host.encode())
            assert client.recv(100).decode() == host
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
    server.bind(("127.0.0.1", 53))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.sendto(b"own", ("127.0.0.1", 53))
        server.settimeout(3)
        assert server.recv(10) == b"own"
"""
    async with subject.sandbox() as sandbox, _opened(sandbox):
        result = await sandbox.commands.run([subject.python, "-I", "-c", script])
        assert result.ok, result.stderr


async def listeners_can_be_made_anew(subject: Subject) -> None:
    async with subject.sandbox() as sandbox:
        with _opened_now(await sandbox.launched.open_listeners()):
            pass
        async with _opened(sandbox):
            answers = await _tried(sandbox, subject, [(*TCP, "198.51.100.7", 80)])
            assert answers == ["198.51.100.7:80"]


@contextlib.asynccontextmanager
async def _opened(sandbox: Sandbox) -> AsyncIterator[Listeners]:
    """The sandbox's listeners, served: each connection is told where it was to go."""
    listeners = await sandbox.launched.open_listeners()
    with _opened_now(listeners) as (tcp, dns_udp, dns_tcp):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_accept, tcp, None)
            tasks.start_soon(_accept, dns_tcp, b"tcp")
            tasks.start_soon(_answer, dns_udp)
            yield listeners
            tasks.cancel_scope.cancel()


@contextlib.contextmanager
def _opened_now(listeners: Listeners) -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        fds = (listeners.tcp, listeners.dns_udp, listeners.dns_tcp)
        yield [stack.enter_context(socket.socket(fileno=os.dup(fd))) for fd in fds]
    for fd in fds:
        os.close(fd)


async def _accept(listener: socket.socket, answer: bytes | None) -> None:
    while True:
        await anyio.wait_readable(listener)
        connection, _ = listener.accept()
        with connection:
            connection.sendall(answer or _destination(connection).encode())
            connection.shutdown(socket.SHUT_WR)
            await anyio.wait_readable(connection)


async def _answer(questions: socket.socket) -> None:
    while True:
        await anyio.wait_readable(questions)
        _, asker = questions.recvfrom(100)
        questions.sendto(b"udp", asker)


def _destination(connection: socket.socket) -> str:
    packed = connection.getsockopt(socket.SOL_IP, _ORIGINAL_DESTINATION, 16)
    port, address = struct.unpack_from(">2xH4s", packed)
    return f"{socket.inet_ntoa(address)}:{port}"


def _port(fd: int) -> int:
    with socket.socket(fileno=os.dup(fd)) as sock:
        return int(sock.getsockname()[1])


async def _tried(sandbox: Sandbox, subject: Subject, tries: Sequence[Try]) -> list[str]:
    """What answered each try from inside: "" for a refusal, TimeoutError for silence."""
    words = json.dumps([(int(f), int(k), p, host, port) for f, k, p, host, port in tries])
    result = await sandbox.commands.run([subject.python, "-I", "-c", _TRY, words])
    assert result.ok, result.stderr
    answers: list[str] = json.loads(result.stdout)
    return answers


_UNWALLED = (a_port_inside_is_reached_from_outside, a_port_that_nobody_listens_on_is_refused)

CASES = tuple(
    Case(run.__name__, run, walls=run not in _UNWALLED)
    for run in (
        *_UNWALLED,
        until_it_is_opened_nothing_leads_out,
        connections_arrive_at_the_listener_with_their_destination,
        questions_for_names_arrive_whichever_server_is_asked,
        nothing_else_goes_anywhere,
        its_own_loopback_stays_its_own,
        listeners_can_be_made_anew,
    )
)
