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
from atoll.launch.linux import packets, syscalls
from atoll.launch.linux.guest_rights import GUEST_CAPABILITIES, MASKED, MASKED_DIRECTORIES
from atoll.launch.linux.slots import NAMESPACES

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
    joins = fds[len(NAMESPACES) + 1 :]
    try:
        engine.close()
        # One thread that moves itself takes no lock of the whole machine (cgroup v1, `tasks`).
        for fd in joins:
            os.write(fd, b"0")
        for fd, kind in zip(fds, _KINDS, strict=False):
            syscalls.setns(fd, kind)
        socket.sethostname(request["hostname"])
        syscalls.set_name("atoll-guest")
        _mount_proc(masked)
        os.setsid()
        # Elsewhere the host moves this process, then says go: from here on it is charged.
        if not joins and os.read(channel, 16) != b"go":
            os._exit(1)
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


def _mount_proc(masked: list[tuple[str, str]]) -> None:
    flags = syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV | syscalls.MOUNT_ATTR_NOEXEC
    # The shard's own /proc lies at /proc only because a fully visible one must be there for this.
    fd = syscalls.filesystem("proc", {}, flags)
    syscalls.umount("/proc", syscalls.MNT_DETACH)
    syscalls.move_mount(fd, "/proc")
    os.close(fd)
    for cover, path in masked:
        syscalls.mount(cover, path, "", syscalls.MS_BIND)
