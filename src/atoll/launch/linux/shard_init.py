"""The shard's init: PID 1 of a template's pid namespace and root of its user namespace.

Trusted and tiny: it makes the namespaces, starts the builder and the zygotes, and reaps. A zygote
may crash or be rebuilt without a sandbox dying, because the pid namespace dies with PID 1 only.
"""

from __future__ import annotations

import os
import signal
import socket

from atoll.launch.linux import (
    heavy_start,
    light_zygote,
    slots,
    syscalls,
    user_namespaces,
)
from atoll.wire import packets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

_NAMESPACES = (
    syscalls.CLONE_NEWNS
    | syscalls.CLONE_NEWNET
    | syscalls.CLONE_NEWIPC
    | syscalls.CLONE_NEWUTS
    | syscalls.CLONE_NEWCGROUP
    | syscalls.CLONE_NEWPID
)


def enter(
    config: dict[str, Any], ready: socket.socket, keeper: socket.socket, sockets: dict[str, int]
) -> NoReturn:
    """Become the shard's init. Runs in a fresh fork of the keeper and never returns."""
    try:
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
        # The working directory moves along into the copied mounts; its path may be closed to us.
        os.chdir(config["stage"])
        user_namespaces.charge_to_range(config["first_id"])
        # Off again with each change of ids (prctl(2)).
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
        syscalls.unshare(syscalls.CLONE_NEWUSER)
        packets.send(ready, {"pid": os.getpid()})
        packets.receive(ready)
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
        syscalls.unshare(_NAMESPACES)
        pid = os.fork()
        if pid:
            _outlive(pid, (ready, keeper), sockets)
        _become_init(config, ready, keeper, sockets)
    except (OSError, ValueError) as error:
        packets.send(ready, {"error": str(error)})
    os._exit(1)


def _outlive(pid: int, sockets: tuple[socket.socket, ...], fds: dict[str, int]) -> NoReturn:
    for sock in sockets:
        sock.close()
    for fd in fds.values():
        os.close(fd)
    os.waitpid(pid, 0)
    os._exit(0)


def _become_init(
    config: dict[str, Any], ready: socket.socket, keeper: socket.socket, sockets: dict[str, int]
) -> NoReturn:
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
    syscalls.set_name("atoll-init")
    _enter_stage()
    # For each id in the shard, the heavy zygote's among them (a sandbox is one: its creator's).
    with open("/proc/sys/user/max_inotify_instances", "w") as file:
        file.write("32")
    children = {
        "builder": _spawn(
            lambda: slots.serve(config, keeper, sockets["BUILDER"]), (ready,), sockets, "BUILDER"
        )
    }
    light = _spawn(
        lambda: light_zygote.serve(config, sockets["LIGHT"]), (ready, keeper), sockets, "LIGHT"
    )
    children["light"] = light
    if config["heavy"]:
        heavy = _spawn(
            lambda: heavy_start.serve(config, sockets["HEAVY"]), (ready, keeper), sockets, "HEAVY"
        )
        children["heavy"] = heavy
    fds = [os.pidfd_open(pid) for pid in (os.getpid(), *children.values())]
    packets.send(ready, {"pids": ["init", *children]}, fds)
    for fd in (*fds, *sockets.values()):
        os.close(fd)
    keeper.close()
    ready.close()
    _reap()


def _enter_stage() -> None:
    syscalls.mount("", "/", "", syscalls.MS_REC | syscalls.MS_SLAVE)
    # The stage came locked from the keeper's namespace; a copy of it may become the root.
    stage = syscalls.open_tree(".", recursive=True)
    syscalls.move_mount(stage, ".")
    os.fchdir(stage)
    os.close(stage)
    flags = syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC
    syscalls.mount("proc", "proc", "proc", flags)
    syscalls.pivot_root(".", "old")
    os.chdir("/")
    syscalls.umount("/old", syscalls.MNT_DETACH)


def _spawn(
    serve: Any, unwanted: tuple[socket.socket, ...], sockets: dict[str, int], own: str
) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        for sock in unwanted:
            sock.close()
        for name, fd in sockets.items():
            if name != own:
                os.close(fd)
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
        syscalls.set_name(f"atoll-{own.lower()}")
        serve()
    finally:
        os._exit(1)


def _reap() -> NoReturn:
    """Reap; a zygote's end is the host's to notice, and must not end a sandbox."""
    while True:
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            os._exit(0)
