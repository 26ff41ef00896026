"""The builder: prepares slots off the path of a create.

A slot is a set of namespaces without a process: a mount namespace with the sandbox's root mounted
and pivoted into, network, ipc and uts ones, all owned by the shard's user namespace, and the
sandbox's own user namespace for its uid range. Filling one takes a fork and four setns.
"""

from __future__ import annotations

import os
import socket

from atoll.launch.linux import own_network, syscalls, user_namespaces
from atoll.wire import packets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

_KINDS = {
    "mnt": syscalls.CLONE_NEWNS,
    "net": syscalls.CLONE_NEWNET,
    "ipc": syscalls.CLONE_NEWIPC,
    "uts": syscalls.CLONE_NEWUTS,
}
NAMESPACES = ("mnt", "net", "ipc", "uts", "user")
"""The order in which a slot's descriptors are handed over."""


def serve(config: dict[str, Any], keeper: socket.socket, number: int) -> NoReturn:
    """Answer the engine's requests for slots until it is gone."""
    engine = socket.socket(fileno=number)
    builder = Builder(config, keeper)
    while True:
        request, fds = packets.receive(engine)
        for fd in fds:
            os.close(fd)
        if request is None:
            os._exit(0)
        try:
            slot = builder.build(request)
        except (OSError, ValueError) as error:
            packets.send(engine, {"n": request["n"], "error": str(error)})
            continue
        packets.send(engine, {"n": request["n"], "ok": True}, slot)
        for fd in slot:
            os.close(fd)


class Builder:
    """Builds one slot at a time; it comes back to its own namespaces after each."""

    def __init__(self, config: dict[str, Any], keeper: socket.socket) -> None:
        self._config = config
        self._keeper = keeper
        self._home = {name: os.open(f"/proc/self/ns/{name}", os.O_RDONLY) for name in _KINDS}

    def build(self, request: dict[str, Any]) -> list[int]:
        """The descriptors of a new slot, in the order of `NAMESPACES`."""
        sources = [source for source, _, _ in request["mounts"]]
        users = [_user_namespace(request, request["lines"], request["lines"])]
        try:
            users += self._owners_as_user(request, sources)
            read_only = [mount[2] for mount in request["mounts"]]
            self._ask({"attach": request["part"], "mounts": sources, "ro": read_only}, users)
            try:
                return [*self._namespaces(request), os.dup(users[0])]
            finally:
                self._ask({"detach": request["part"]})
        finally:
            for fd in users:
                os.close(fd)

    def _owners_as_user(self, request: dict[str, Any], sources: list[str]) -> list[int]:
        """For each mount an id map by which its owner on the host is the sandbox's user.

        Nobody else is anybody in it: the sandbox's root cannot make files of the host's root.
        """
        if not sources or not self._config["idmapped"]:
            return []
        owners = self._ask({"owners": sources})["owners"]
        user = request["user"]
        return [
            _user_namespace(request, f"{uid} {user} 1\n", f"{gid} {user} 1\n")
            for uid, gid in owners
        ]

    def _ask(self, request: dict[str, Any], fds: list[int] | None = None) -> dict[str, Any]:
        try:
            packets.send(self._keeper, request, fds or [])
            answer, _ = packets.receive(self._keeper)
        except ConnectionError:
            answer = None
        if answer is None:
            os._exit(1)  # without its keeper the shard is ending
        if "error" in answer:
            raise OSError(answer["error"])
        return answer

    def _namespaces(self, request: dict[str, Any]) -> list[int]:
        syscalls.unshare(sum(_KINDS.values()))
        made: list[int] = []
        try:
            self._mount_root(request)
            own_network.settle(*request["ping_groups"])
            for name in _KINDS:
                made.append(os.open(f"/proc/self/ns/{name}", os.O_RDONLY | os.O_CLOEXEC))
            return made
        except BaseException:
            for fd in made:
                os.close(fd)
            raise
        finally:
            for name, kind in _KINDS.items():
                syscalls.setns(self._home[name], kind)

    def _mount_root(self, request: dict[str, Any]) -> None:
        syscalls.mount("", "/", "", syscalls.MS_REC | syscalls.MS_PRIVATE)
        options = f"mode=755,size={request['disk']},nr_inodes={request['inodes']}"
        syscalls.mount("tmpfs", "/work", "tmpfs", syscalls.MS_NOSUID | syscalls.MS_NODEV, options)
        for number, layer in enumerate(self._config["layers"]):
            _overlay(number, layer, request)
        _devices(request)
        syscalls.move_mount(syscalls.open_tree("/proc"), "/new/proc")
        for number, (_, target, _) in enumerate(request["mounts"]):
            _show(f"/lowers/{request['part']}/m{number}", target)
        os.chdir("/new")
        # pivot_root(".", "."): the old root lies over the new one and is taken off (pivot_root(2)).
        syscalls.pivot_root(".", ".")
        syscalls.umount(".", syscalls.MNT_DETACH)
        os.chdir("/")


def _overlay(number: int, layer: dict[str, Any], request: dict[str, Any]) -> None:
    upper, work = f"/work/{number}u", f"/work/{number}w"
    lowers = [f"/lowers/{request['part']}/{lower}" for lower in layer["lowers"]]
    top = os.stat(lowers[0])
    for path in (upper, work):
        os.mkdir(path, 0o755)
        os.chmod(path, top.st_mode & 0o7777)
        os.chown(path, request["root"], request["root"])
    for name, mode, owner in layer["own"]:
        os.mkdir(f"{upper}/{name}")
        os.chmod(f"{upper}/{name}", mode)
        os.chown(f"{upper}/{name}", request[owner], request[owner])
    data = f"lowerdir={':'.join(lowers)},upperdir={upper},workdir={work},userxattr"
    target = "/new" + layer["mountpoint"].rstrip("/")
    flags = syscalls.MS_NOSUID | syscalls.MS_NODEV
    syscalls.mount("overlay", target, "overlay", flags, data)


def _show(source: str, target: str) -> None:
    """Mount what lies at `source` over `target` in the new root, making what is missing."""
    place = "/new"
    *parents, last = [part for part in target.split("/") if part]
    for part in parents:
        place += f"/{part}"
        if not os.path.lexists(place):
            os.mkdir(place, 0o755)
        if os.path.islink(place):
            raise OSError(f"the mount target {target} leads through a symbolic link")
    place += f"/{last}"
    if os.path.islink(place):
        raise OSError(f"the mount target {target} is a symbolic link")
    if not os.path.exists(place):
        if os.path.isdir(source):
            os.mkdir(place, 0o755)
        else:
            os.close(os.open(place, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
    syscalls.move_mount(syscalls.open_tree(source, recursive=True), place)


def _devices(request: dict[str, Any]) -> None:
    root, terminals = request["root"], request["tty"]
    syscalls.move_mount(syscalls.open_tree("/dev", recursive=True), "/new/dev")
    flags = syscalls.MS_NOSUID | syscalls.MS_NOEXEC
    options = f"newinstance,ptmxmode=0666,mode=620,gid={terminals}"
    syscalls.mount("devpts", "/new/dev/pts", "devpts", flags, options)
    options = f"mode=1777,size={request['shm']},nr_inodes=16k,uid={root},gid={root}"
    syscalls.mount("tmpfs", "/new/dev/shm", "tmpfs", flags | syscalls.MS_NODEV, options)


def _user_namespace(request: dict[str, Any], uid_map: str, gid_map: str) -> int:
    return user_namespaces.of_sandbox(request["root"], request["processes"], uid_map, gid_map)
