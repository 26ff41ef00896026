"""The keeper: the one process of a shard that has rights on the host. Trusted, and small.

It owns a private mount namespace in which a template's lower directories lie read-only, makes one
idmapped copy of them for each sandbox that is being built (only the initial user namespace's root
may), and holds the shard's init. It never sees a client's byte. It ends when its engine does.

    engine ── keeper (host root, own mount namespace)
                └── init (PID 1 of the shard's pid namespace, root of the shard's user namespace)
                      ├── builder        prepares slots: namespaces with a mounted root, no process
                      ├── light zygote   forks guests into slots
                      └── heavy zygote   forks Python contexts into sandboxes
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys

from atoll.launch.linux import shard_init, syscalls, user_namespaces
from atoll.wire import packets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Config = dict[str, Any]


LOWERS = "lowers"
_LOWER_ATTRIBUTES = (
    syscalls.MOUNT_ATTR_RDONLY | syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV
)
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")


def main() -> None:
    """Entry of the keeper process: its sockets are named by the environment of the exec."""
    syscalls.set_name("atoll-keeper")
    numbers = {
        name: int(os.environ[f"ATOLL_{name}"]) for name in ("CONTROL", "BUILDER", "LIGHT", "HEAVY")
    }
    control = socket.socket(fileno=numbers["CONTROL"])
    if os.environ.pop("ATOLL_ROOTLESS", None):
        _enter_user_namespace(control)
    os.environ.clear()
    config, _ = packets.receive(control)
    if config is None:
        return
    try:
        sockets = {name: fd for name, fd in numbers.items() if name != "CONTROL"}
        keeper = Keeper(control, config)
        keeper.start(sockets)
    except (OSError, ValueError, KeyError) as error:
        packets.send(control, {"error": str(error)})
        return
    keeper.serve()


def _enter_user_namespace(control: socket.socket) -> None:
    """Become root of a user namespace of the account's own, which the engine maps.

    Executed again in it, so that the engine, its owner, may look at what is forked from here:
    a process that is not dumpable belongs to the namespace of its last exec (ptrace(2)).
    """
    syscalls.unshare(syscalls.CLONE_NEWUSER)
    packets.send(control, {"unmapped": True})
    answer, _ = packets.receive(control)
    if answer is None:
        os._exit(1)
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    os.execve(sys.executable, sys.orig_argv, dict(os.environ))  # noqa: S606


class Keeper:
    """One shard's keeper."""

    def __init__(self, control: socket.socket, config: Config) -> None:
        self._control = control
        self._config = config
        self._stage: str = config["stage"]
        self._requests, self._builder_end = socket.socketpair(
            socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC
        )
        self._lower_sources: list[int] = []

    def start(self, sockets: dict[str, int]) -> None:
        """Stage the mounts and start the shard's init; returns when init has answered."""
        if not self._config["idmapped"]:
            user_namespaces.spare_the_account()
        syscalls.unshare(syscalls.CLONE_NEWNS)
        syscalls.mount("", "/", "", syscalls.MS_REC | syscalls.MS_PRIVATE)
        self._stage_mounts()
        ready, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = os.fork()
        if pid == 0:
            self._requests.close()
            self._control.close()
            ready.close()
            shard_init.enter(self._config, theirs, self._builder_end, sockets)
        theirs.close()
        self._builder_end.close()
        for fd in sockets.values():
            os.close(fd)
        self._map_ids(ready)
        answer, fds = packets.receive(ready)
        if answer is None or "error" in answer:
            raise OSError((answer or {}).get("error", "the shard's init died while starting"))
        # init has become a grandchild by entering its pid namespace: its pidfd tells its host pid.
        packets.send(self._control, {"ok": answer}, fds)
        for fd in fds:
            os.close(fd)
        ready.close()

    def _stage_mounts(self) -> None:
        stage = self._stage
        syscalls.mount("tmpfs", stage, "tmpfs", syscalls.MS_NOSUID, "mode=755,size=1m,nr_inodes=4k")
        syscalls.mount("", stage, "", syscalls.MS_SHARED)
        for name in ("proc", "dev", "new", "work", "old", LOWERS):
            os.mkdir(f"{stage}/{name}")
        self._stage_devices(f"{stage}/dev")
        # The sources are kept detached: no path, so nothing but this descriptor reaches them.
        for source in self._config["lowers"]:
            self._lower_sources.append(syscalls.open_tree(source))

    def _stage_devices(self, target: str) -> None:
        syscalls.mount(
            "tmpfs", target, "tmpfs", syscalls.MS_NOSUID, "mode=755,size=64k,nr_inodes=64"
        )
        for name in DEVICES:
            self._stage_device(name, f"{target}/{name}")
        for name in ("pts", "shm", "mqueue"):
            os.mkdir(f"{target}/{name}")
        links = {"ptmx": "pts/ptmx", "fd": "/proc/self/fd"}
        links |= {
            name: f"/proc/self/fd/{n}" for n, name in enumerate(("stdin", "stdout", "stderr"))
        }
        for name, to in links.items():
            os.symlink(to, f"{target}/{name}")
        flags = syscalls.MS_NOSUID | syscalls.MS_NOEXEC | syscalls.MS_RDONLY
        syscalls.mount("", target, "", 32 | flags, "mode=755")  # MS_REMOUNT

    def _stage_device(self, name: str, target: str) -> None:
        if self._config["idmapped"]:
            os.mknod(target, 0o020666, os.stat(f"/dev/{name}").st_rdev)
            os.chmod(target, 0o666)  # noqa: S103
            return
        # Only the initial namespace's root makes devices; others show the machine's.
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o600))
        syscalls.mount(f"/dev/{name}", target, "", syscalls.MS_BIND)

    def _map_ids(self, ready: socket.socket) -> None:
        answer, fds = packets.receive(ready)
        if answer is None or "error" in answer:
            raise OSError((answer or {}).get("error", "the shard's init died before its id map"))
        line = f"0 {self._config['first_id']} {self._config['id_count']}\n"
        user_namespaces.write_maps(answer["pid"], line, line)
        for fd in fds:
            os.close(fd)
        packets.send(ready, {"mapped": True})

    def serve(self) -> None:
        """Answer the builder until nobody holds the control socket's other end."""
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(self._requests, select.POLLIN)
        while True:
            for fd, _ in poll.poll():
                if fd == self._control.fileno():
                    if packets.receive(self._control)[0] is None:
                        return
                elif not self._answer_builder():
                    poll.unregister(self._requests)  # no slots any more; sandboxes live on

    def _answer_builder(self) -> bool:
        request, fds = packets.receive(self._requests)
        if request is None:
            return False
        try:
            packets.send(self._requests, self._answer(request, fds))
        except OSError as error:
            packets.send(self._requests, {"error": str(error)})
        finally:
            for fd in fds:
                os.close(fd)
        return True

    def _answer(self, request: dict[str, Any], fds: list[int]) -> dict[str, Any]:
        if "owners" in request:
            found = [os.stat(source) for source in request["owners"]]
            return {"owners": [[status.st_uid, status.st_gid] for status in found]}
        if "detach" in request:
            self._detach(request["detach"])
            return {"ok": True}
        self._attach(request["attach"], fds[0])
        try:
            self._attach_mounts(request["attach"], request["mounts"], request["ro"], fds[1:])
        except OSError:
            self._detach(request["attach"])
            raise
        return {"ok": True}

    def _attach_mounts(
        self, name: int, sources: list[str], read_only: list[bool], maps: list[int]
    ) -> None:
        """Show the caller's own host paths for one sandbox, each by the map made for it."""
        for number, source in enumerate(sources):
            place = f"{self._stage}/{LOWERS}/{name}/m{number}"
            if os.path.isdir(source):
                os.mkdir(place)
            else:
                os.close(os.open(place, os.O_CREAT | os.O_WRONLY, 0o600))
            fd = syscalls.open_tree(source)
            try:
                attributes = syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV
                if read_only[number]:
                    attributes |= syscalls.MOUNT_ATTR_RDONLY
                if maps:
                    attributes |= syscalls.MOUNT_ATTR_IDMAP
                syscalls.mount_setattr(fd, attributes, maps[number] if maps else 0)
                syscalls.move_mount(fd, place)
            finally:
                os.close(fd)

    def _attach(self, name: int, userns: int) -> None:
        """Show the lowers, read-only and mapped to `userns`, at /lowers/<name> of the shard.

        They arrive there by propagation, so their flags are locked: nobody in the shard can
        make them writable (mount_namespaces(7), "Restrictions on mount namespaces").
        """
        place = f"{self._stage}/{LOWERS}/{name}"
        os.mkdir(place)
        for index, source in enumerate(self._lower_sources):
            os.mkdir(f"{place}/{index}")
            fd = syscalls.open_tree(f"/proc/self/fd/{source}")
            try:
                attributes = _LOWER_ATTRIBUTES
                if self._config["idmapped"]:
                    attributes |= syscalls.MOUNT_ATTR_IDMAP
                syscalls.mount_setattr(fd, attributes, userns if self._config["idmapped"] else 0)
                syscalls.move_mount(fd, f"{place}/{index}")
            finally:
                os.close(fd)

    def _detach(self, name: int) -> None:
        place = f"{self._stage}/{LOWERS}/{name}"
        for entry in os.listdir(place):
            path = f"{place}/{entry}"
            if os.path.ismount(path):
                syscalls.umount(path, syscalls.MNT_DETACH)
            if os.path.isdir(path):
                os.rmdir(path)
            else:
                os.unlink(path)
        os.rmdir(place)


if __name__ == "__main__":
    main()
