"""The light zygote: a bare interpreter with the guest imported, from which guests are forked."""

from __future__ import annotations

import base64
import gc
import os
import resource
import signal
import socket
from functools import partial

from atoll.guest import init as guest_init
from atoll.guest.descriptors import close_range
from atoll.launch.linux import syscalls
from atoll.launch.linux.guest_rights import GUEST_CAPABILITIES, MASKED, MASKED_DIRECTORIES
from atoll.launch.linux.slots import NAMESPACES
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
GUEST_CHANNEL = 3
_EMPTY_DIRECTORY = "/dev/mqueue"


def serve(config: dict[str, Any], number: int) -> NoReturn:
    """Fork a guest for each request until the engine is gone."""
    engine = socket.socket(fileno=number)
    outer = base64.b64decode(config["outer_filter"])
    inner = base64.b64decode(config["inner_filter"])
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
    syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.install_filter(outer)
    guest_init.settle()
    guest_init.rehearse()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    covers = dict.fromkeys(MASKED, "/dev/null")
    covers |= dict.fromkeys(MASKED_DIRECTORIES, _EMPTY_DIRECTORY)
    masked = [
        (cover, f"/proc/{name}")
        for name, cover in covers.items()
        if os.path.exists(f"/proc/{name}")
    ]
    dropped = syscalls.beyond(GUEST_CAPABILITIES)
    gc.collect()
    gc.freeze()
    gc.disable()
    while True:
        request, fds = packets.receive(engine)
        if request is None:
            os._exit(0)
        become = partial(_become_guest, engine, request, fds, inner, masked, dropped)
        try:
            _, pidfd = syscalls.clone(syscalls.CLONE_NEWPID, become)
        except OSError as error:
            packets.send(engine, {"n": request["n"], "error": str(error)})
        else:
            packets.send(engine, {"n": request["n"]}, (pidfd,))
            os.close(pidfd)
        for fd in fds:
            os.close(fd)


def _become_guest(
    engine: socket.socket,
    request: dict[str, Any],
    fds: list[int],
    inner: bytes,
    masked: list[tuple[str, str]],
    dropped: list[int],
) -> NoReturn:
    channel = fds[len(NAMESPACES)]
    try:
        engine.close()
        for fd, kind in zip(fds, _KINDS, strict=False):
            syscalls.setns(fd, kind)
        socket.sethostname(request["hostname"])
        syscalls.set_name("atoll-guest")
        _mount_proc(masked)
        os.setsid()
        _join_cgroup(channel)
        syscalls.unshare(syscalls.CLONE_NEWCGROUP)
        syscalls.setns(fds[NAMESPACES.index("user")], syscalls.CLONE_NEWUSER)
        os.setgroups([])
        if request["processes"]:
            resource.setrlimit(resource.RLIMIT_NPROC, (request["processes"],) * 2)
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
        for capability in dropped:
            syscalls.prctl(syscalls.PR_CAPBSET_DROP, capability)
        syscalls.set_capabilities(GUEST_CAPABILITIES)
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        syscalls.install_filter(inner)
        os.dup2(channel, GUEST_CHANNEL)
        close_range(GUEST_CHANNEL + 1, 1 << 20)
    except OSError as error:
        os.write(channel, f'{{"event":"failed","message":"{error}"}}'.encode())
        os._exit(1)
    guest_init.serve(GUEST_CHANNEL, settled=True)


def _join_cgroup(channel: int) -> None:
    """Wait until the host has made the cgroup: from here on this process is charged to it.

    On cgroup v1 the host hands in its `tasks`: one thread that moves itself takes no lock of the
    whole machine. Elsewhere the host has moved this process.
    """
    with socket.socket(fileno=os.dup(channel)) as host:
        word, joins, _, _ = socket.recv_fds(host, 16, packets.MAX_DESCRIPTORS)
    if word != b"go":
        os._exit(1)
    for fd in joins:
        os.write(fd, b"0")


def _mount_proc(masked: list[tuple[str, str]]) -> None:
    flags = syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV | syscalls.MOUNT_ATTR_NOEXEC
    # The shard's own /proc lies at /proc only because a fully visible one must be there for this.
    # It stays covered: nobody inside may unmount, and taking it off costs an RCU grace period.
    fd = syscalls.filesystem("proc", {}, flags)
    syscalls.move_mount(fd, "/proc")
    os.close(fd)
    for cover, path in masked:
        syscalls.mount(cover, path, "", syscalls.MS_BIND)
