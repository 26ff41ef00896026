"""The heavy zygote: the template's Python, warmed, from which contexts are forked and moved.

Runs in the template's root behind every wall, with two capabilities over the template's own
namespaces. Stdlib only: it is the template's interpreter.
"""

from __future__ import annotations

import array
import base64
import ctypes
import json
import os
import resource
import signal
import socket
import struct
import sys
import traceback

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from atoll.guest.privileges import Powers

_CONTROL = 3
_REHEARSALS = 12  # after 8 calls the bytecode of a function changes no more, nor then in a fork
_NEWUSER = 0x10000000
_NEWPID = 0x20000000
# mnt, net, ipc, uts, cgroup: in this order after the pid namespace in a request; user comes last.
_NAMESPACES = (0x00020000, 0x40000000, 0x08000000, 0x04000000, 0x02000000)
_libc = ctypes.CDLL(None, use_errno=True)


def _receive(sock: socket.socket) -> tuple[dict[str, Any] | None, list[int]]:
    # Its true length first: a buffer for the longest one would be mapped and unmapped each time.
    size = sock.recv_into(bytearray(1), 1, socket.MSG_PEEK | socket.MSG_TRUNC)
    data, ancillary, _, _ = sock.recvmsg(size or 1, socket.CMSG_SPACE(64), socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for level, kind, body in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(body)
    return (json.loads(data) if data else None), list(fds)


def _send(sock: socket.socket, packet: dict[str, Any], fds: tuple[int, ...] = ()) -> None:
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    sock.sendmsg([json.dumps(packet).encode()], rights)


def _setns(fd: int, kind: int) -> None:
    if _libc.setns(fd, kind) < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"setns({kind:#x}): {os.strerror(number)}")


def _install(program: bytes) -> None:
    buffer = ctypes.create_string_buffer(program, len(program))
    fprog = struct.pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(buffer))
    if _libc.prctl(22, ctypes.c_ulong(2), fprog, 0, 0) < 0:  # PR_SET_SECCOMP, mode filter
        raise OSError(ctypes.get_errno(), "the inner filter was refused")


def _set_name(name: bytes) -> None:
    buffer = ctypes.create_string_buffer(name)
    _libc.prctl(15, ctypes.c_ulong(ctypes.addressof(buffer)), 0, 0, 0)  # PR_SET_NAME


def main() -> None:
    """Warm up as the first packet says, then fork a context for every request."""
    _set_name(b"atoll-heavy")
    sock = socket.socket(fileno=_CONTROL)
    config, _ = _receive(sock)
    if config is None:
        return
    sys.path.insert(0, "/.atoll")
    from atoll.guest import dispositions
    from atoll.guest.contexts import python

    # Named here so that nothing is imported after the fork, in a root that is the sandbox's.
    from atoll.guest.marks import Marks
    from atoll.guest.privileges import Powers, become  # noqa: F401
    from atoll.guest.users import lookup

    try:
        python.warm(config["preload"])
    except BaseException as error:
        _send(sock, {"error": f"{type(error).__name__}: {error}"[:2000]})
        raise
    dispositions.reset()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for _ in range(_REHEARSALS):
        lookup("user")
        Marks().limits(1)
    os.environ.clear()  # a context's own replaces it
    _send(sock, {"ready": True})
    _serve(sock, base64.b64decode(config["inner_filter"]), Powers.of_newcomer())


def _serve(sock: socket.socket, inner: bytes, powers: Powers) -> None:
    home = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    while True:
        request, fds = _receive(sock)
        if request is None:
            return
        try:
            # Only children change their pid namespace, so the zygote comes back to its own.
            _setns(fds[0], _NEWPID)
            try:
                pid = os.fork()
                if pid == 0:
                    sock.close()
                    _become_context(request, fds, inner, powers)
            finally:
                _setns(home, _NEWPID)
            pidfd = os.pidfd_open(pid)
            _send(sock, {"n": request["n"]}, (pidfd,))
            os.close(pidfd)
        except OSError as error:
            _send(sock, {"n": request["n"], "error": str(error)})
        finally:
            for fd in fds:
                os.close(fd)


def _become_context(
    request: dict[str, Any], fds: list[int], inner: bytes, powers: Powers
) -> NoReturn:
    from atoll.guest.contexts import python

    try:
        _enter(request, fds, inner, powers)
        python.serve(_CONTROL)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def _enter(request: dict[str, Any], fds: list[int], inner: bytes, powers: Powers) -> None:
    """Move this fork into the sandbox, become the user, and say so to the host.

    The host looks at it then, and sends nothing to its control socket before it has.
    """
    from atoll.guest.marks import Marks
    from atoll.guest.privileges import become
    from atoll.guest.users import lookup

    user_namespace, control, out, err, gate = fds[6:11]
    joins = fds[11:]
    try:
        for fd in joins:
            os.write(fd, b"0")
        for fd, kind in zip(fds[1:6], _NAMESPACES, strict=True):
            _setns(fd, kind)
        if not joins and os.read(gate, 2) != b"go":
            os._exit(1)
        os.setsid()
        _set_name(b"python")
        # Before the guest may signal it, or it would be taken for one that has lost its mark.
        for kind, value in Marks().limits(request["mark"]):
            resource.setrlimit(kind, (value, value))
        _setns(user_namespace, _NEWUSER)
        account = lookup(request["user"])
        for name, value in request["rlimits"].items():
            resource.setrlimit(getattr(resource, name), (value, value))
        become(account, powers)
        # Its own /proc/self, and a debugger of its own user: it holds nothing that is not theirs.
        _libc.prctl(4, ctypes.c_ulong(1), 0, 0, 0)
        _install(inner)
        os.umask(0o022)
        os.environ.update(request["env"])
        os.chdir(request["cwd"])
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        null = os.open("/dev/null", os.O_RDONLY)
        for number, fd in ((0, null), (1, out), (2, err)):
            os.dup2(fd, number)
        os.write(gate, b"in")
        os.dup2(control, _CONTROL)
        os.closerange(_CONTROL + 1, 1 << 16)
    except BaseException as error:
        os.write(gate, str(error).encode()[:1000])
        os._exit(1)


if __name__ == "__main__":
    main()
