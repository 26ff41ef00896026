"""The host's way to sockets inside of sandboxes' network namespaces, which a process makes."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from pathlib import Path

import anyio
import anyio.to_thread

from atoll.launch.linux.network_rules import LISTENER_ADDRESS, OWN_ADDRESS
from atoll.launch.port import Listeners
from atoll.model import NetworkUnavailable, PortRefused
from atoll.wire import packets
from atoll.wire.packet_port import PacketPort, Reply

PATIENCE_SECONDS = 20.0
CONNECT_SECONDS = 10.0
_END_SECONDS = 5.0
_LOOPBACKS = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))
_ENTRY = """
import sys, types
for name in ("atoll", "atoll.launch", "atoll.launch.linux"):
    package = sys.modules[name] = types.ModuleType(name)
    package.__path__ = [sys.argv[1] + "/" + name.replace(".", "/")]
from atoll.launch.linux.sockets_inside_program import main
main()
"""
_SOURCE = str(Path(__file__).parents[3])


class SocketsInside:
    """One for a launcher. Its process (`sockets_inside_program`) starts with the first request."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._port: PacketPort | None = None

    async def listeners(self, network: int, sandbox_id: str) -> Listeners:
        """Let the network namespace `network` lead to new listeners, and to nothing else.

        Raises:
            NetworkUnavailable: the kernel refused a part of it.
        """
        try:
            _, (tcp, dns_udp, dns_tcp) = await self._ask({}, network)
        except (OSError, TimeoutError) as error:
            raise NetworkUnavailable(
                f"its network cannot be built: {error or 'no answer in time'}",
                sandbox_id=sandbox_id,
                hint="`atoll doctor` says what this machine lacks",
            ) from error
        return Listeners(tcp, dns_udp, dns_tcp, addresses=(OWN_ADDRESS, LISTENER_ADDRESS))

    async def connection(self, network: int, port: int, sandbox_id: str) -> socket.socket:
        """A connection to `port` of a loopback address in the network namespace `network`.

        Raises:
            PortRefused: nothing listens there, or it does not answer.
            NetworkUnavailable: nobody can enter the namespace.
        """
        reason = ""
        for family, address in _LOOPBACKS:
            try:
                reply, fds = await self._ask({"connect": [int(family), address, port]}, network)
            except (OSError, TimeoutError) as error:
                raise NetworkUnavailable(
                    f"its network cannot be entered: {error or 'no answer in time'}",
                    sandbox_id=sandbox_id,
                ) from error
            sock = socket.socket(fileno=fds[0])
            sock.setblocking(False)
            try:
                code = reply["code"] or await _outcome(sock)
            except BaseException:
                sock.close()
                raise
            if not code:
                return sock
            sock.close()
            reason = reason or os.strerror(code)
        raise PortRefused(
            f"nothing in it answers on port {port}: {reason}",
            sandbox_id=sandbox_id,
            hint="start a server there that listens on 127.0.0.1 or on all addresses",
        )

    async def _ask(self, request: packets.Packet, network: int) -> Reply:
        if self._port is None or self._port.closed:
            self._start()
        assert self._port is not None
        with anyio.fail_after(PATIENCE_SECONDS):
            return await self._port.request(request, [network])

    def _start(self) -> None:
        if self._process is not None:
            _end(self._process)
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                words = [os.path.realpath(sys.executable), "-I", "-S", "-c", _ENTRY, _SOURCE]
                self._process = subprocess.Popen(
                    [*words, str(theirs.fileno())],
                    env={},
                    cwd="/",
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,  # what went wrong comes in packets
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,
                )
        except BaseException:
            mine.close()
            raise
        self._port = PacketPort(mine, "maker of sockets inside")

    async def close(self) -> None:
        """End the process; sockets that it made live on."""
        if self._port is not None:
            self._port.close()
        if self._process is not None:
            await anyio.to_thread.run_sync(_end, self._process)
            self._process = None


async def _outcome(sock: socket.socket) -> int:
    """The errno that a connection on its way ends with; 0 for success."""
    with anyio.move_on_after(CONNECT_SECONDS):
        await anyio.wait_writable(sock)
        return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    return errno.ETIMEDOUT


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
