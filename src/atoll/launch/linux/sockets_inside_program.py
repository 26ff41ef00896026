"""Makes sockets inside of the network namespaces of sandboxes. A process of its own.

For each request it forks; the fork enters the user namespace that owns the network namespace, then
that itself, and sends back the socket. So the engine never leaves its own namespaces, and it works
for every account and every launcher, also for sandboxes whose shard a former process started.

Interpreter's modules only: trusted, with the engine's rights over user namespaces and no others.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
import sys

from atoll.launch.linux import network_rules, syscalls
from atoll.wire import packets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

BACKLOG = 1024
_NS_GET_USERNS = 0xB701


def main() -> None:
    """Serve the engine at the descriptor that the command line names, until it is gone."""
    engine = socket.socket(fileno=int(sys.argv[2]))
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
    if os.geteuid() == 0:
        syscalls.set_capabilities(1 << syscalls.CAP_SYS_ADMIN)
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # forks are reaped by the kernel
    home = _identity(os.open("/proc/self/ns/user", os.O_RDONLY | os.O_CLOEXEC))
    while True:
        request, fds = packets.receive(engine)
        if request is None:
            os._exit(0)
        if os.fork() == 0:
            _answer(engine, request, fds, home)
        for fd in fds:
            os.close(fd)


def _answer(
    engine: socket.socket, request: dict[str, Any], fds: list[int], home: tuple[int, int]
) -> NoReturn:
    try:
        reply, made = _make(request, fds, home)
        packets.send(engine, {"n": request["n"], **reply}, [sock.fileno() for sock in made])
    except Exception as error:
        packets.send(engine, {"n": request["n"], "error": str(error) or repr(error)})
    finally:
        os._exit(0)


def _make(
    request: dict[str, Any], fds: list[int], home: tuple[int, int]
) -> tuple[dict[str, Any], list[socket.socket]]:
    network = fds[0]
    owner = fcntl.ioctl(network, _NS_GET_USERNS)
    if _identity(owner) == home:
        raise OSError("this network belongs to no sandbox")
    syscalls.setns(owner, syscalls.CLONE_NEWUSER)
    syscalls.setns(network, syscalls.CLONE_NEWNET)
    if "connect" in request:
        return _connect(*request["connect"])
    network_rules.install()
    return {}, _listeners()


def _identity(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


def _listeners() -> list[socket.socket]:
    """TCP, questions by UDP, questions by TCP: the order in which `SocketsInside` takes them."""
    streams = []
    for port in (network_rules.TCP_PORT, network_rules.DNS_PORT):
        stream = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        # Connections that an earlier listener took may still be in TIME_WAIT (tcp(7)).
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        stream.bind((network_rules.LISTENER_ADDRESS, port))
        stream.listen(BACKLOG)
        streams.append(stream)
    questions = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    questions.bind((network_rules.LISTENER_ADDRESS, network_rules.DNS_PORT))
    return [streams[0], questions, streams[1]]


def _connect(family: int, address: str, port: int) -> tuple[dict[str, Any], list[socket.socket]]:
    """A socket on its way. A hostile listener can leave it unanswered: nothing here waits."""
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    code = sock.connect_ex((address, port))
    return {"code": 0 if code == errno.EINPROGRESS else code}, [sock]
