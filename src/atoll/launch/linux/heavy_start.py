"""Starts the heavy zygote: the template's own Python, with every wall up before its first byte."""

from __future__ import annotations

import base64
import os
import resource
import socket

from atoll.guest.descriptors import close_range
from atoll.launch.linux import syscalls
from atoll.wire import packets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

_KINDS = (
    syscalls.CLONE_NEWNS,
    syscalls.CLONE_NEWNET,
    syscalls.CLONE_NEWIPC,
    syscalls.CLONE_NEWUTS,
)
# To move a fork of itself into a sandbox of its template; full rights come with the sandbox's own
# user namespace and are dropped there at once.
_KEPT = 1 << syscalls.CAP_SYS_ADMIN | 1 << syscalls.CAP_SYS_CHROOT
CONTROL = 3
_PROCESSES = 1024


def serve(config: dict[str, Any], number: int) -> NoReturn:
    """Wait until the host has put this process into its cgroup, then become the heavy zygote."""
    engine = socket.socket(fileno=number)
    request, fds = packets.receive(engine)
    if request is None:
        os._exit(0)
    try:
        for fd, kind in zip(fds, _KINDS, strict=False):
            syscalls.setns(fd, kind)
        errors = fds[-1]
        _own_proc()
        if not config["idmapped"]:
            # No cgroup may count here; its forks in sandboxes are counted in their namespaces.
            resource.setrlimit(resource.RLIMIT_NPROC, (_PROCESSES, _PROCESSES))
        _drop_to(request["uid"])
        syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
        syscalls.install_filter(base64.b64decode(config["outer_filter"]))
        os.dup2(errors, 1)
        os.dup2(errors, 2)
        engine_fd = os.dup(engine.fileno())
        os.dup2(engine_fd, CONTROL)
        close_range(CONTROL + 1, 1 << 20)
        os.setsid()
        os.chdir("/")
        python = config["python"]
        argv = [python, "-I", "/.atoll/atoll/guest/zygote.py"]
        os.execve(python, argv, config["env"])  # noqa: S606
    except OSError as error:
        packets.send(socket.socket(fileno=CONTROL), {"error": str(error)})
    os._exit(1)


def _own_proc() -> None:
    # hidepid: a preload sees no process but its own (proc(5)); it could not touch them either way.
    flags = syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC
    syscalls.mount("proc", "/proc", "proc", flags, "hidepid=invisible")


def _drop_to(uid: int) -> None:
    syscalls.prctl(syscalls.PR_SET_KEEPCAPS, 1)
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    # SETPCAP only to empty the bounding set.
    syscalls.set_capabilities(_KEPT | 1 << 8, _KEPT)
    syscalls.limit_bounding_set(_KEPT)
    syscalls.set_capabilities(_KEPT, _KEPT)
    for capability in (syscalls.CAP_SYS_ADMIN, syscalls.CAP_SYS_CHROOT):
        syscalls.prctl(syscalls.PR_CAP_AMBIENT, syscalls.PR_CAP_AMBIENT_RAISE, capability)
