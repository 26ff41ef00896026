"""The builder: the trusted process from which every bwrap of one launcher is started.

Started once with a packet socket to the engine; ends with it, and every bwrap dies with the builder
(--die-with-parent). It holds the outer user namespace and asks a fork of itself that lives in there
for the inner ones, because only a member of the outer namespace may write their id maps.

    engine ── builder (host root, or the caller) ── bwrap (PID 1 of a pid namespace)
                │                                     └── guest (PID 1 of the sandbox's, inside it)
                └── maker (root of the outer user namespace)

bwrap is PID 1 of a namespace of its own, so that the kernel ends all with it: the parent-death
signal alone would not, since bwrap has another id than the guest and may not signal it.

Interpreter's modules only: it runs as `python -I -S` and holds nothing of a client.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from typing import Any, NoReturn

from atoll.launch import bubblewrap_stage
from atoll.launch.linux import own_network, syscalls, user_namespaces
from atoll.wire import packets

_CGROUP_FDS_FIRST = 5


def main() -> None:
    """Entry of the builder process; the number of its socket is its first argument."""
    control = socket.socket(fileno=int(sys.argv[2]))
    config, _ = packets.receive(control)
    if config is None:
        return
    number = config["n"]
    try:
        outer = _outer_namespace(config) if config["root"] else _own_namespace()
        packets.send(control, {"n": number, "ok": True})
        # Without rights on the host this process is mapped by the engine in between.
        request, _ = packets.receive(control)
        if request is None:
            return
        number = request["n"]
        if not config["root"]:
            user_namespaces.spare_the_account()
        builder = Builder(control, outer, root=config["root"])
    except OSError as error:
        packets.send(control, {"n": number, "error": str(error)})
        return
    packets.send(control, {"n": number, "ok": True})
    builder.serve()


class Builder:
    """One launcher's builder.

    Args:
        control: to the engine.
        outer: the user namespace that owns the sandboxes' other namespaces.
        root: this process is root of the host, outside of `outer`; otherwise it is inside.
    """

    def __init__(self, control: socket.socket, outer: int, *, root: bool) -> None:
        self._control = control
        self._root = root
        self._outer = outer
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        self._maker = self._start_maker()

    def serve(self) -> None:
        """Answer the engine until it is gone."""
        while True:
            request, fds = packets.receive(self._control)
            if request is None:
                return
            try:
                pid, pidfd = self._launch(request, fds)
            except (OSError, ValueError) as error:
                packets.send(self._control, {"n": request.get("n", -1), "error": str(error)})
            else:
                packets.send(self._control, {"n": request["n"], "pid": pid}, (pidfd,))
                os.close(pidfd)
            finally:
                for fd in fds:
                    os.close(fd)

    def _start_maker(self) -> socket.socket:
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        if os.fork():
            theirs.close()
            return mine
        try:
            mine.close()
            self._control.close()
            self._enter_outer()
            syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)
            _make_namespaces(theirs)
        finally:
            os._exit(1)

    def _enter_outer(self) -> None:
        if self._root:
            syscalls.setns(self._outer, syscalls.CLONE_NEWUSER)
            os.setgroups([])
            os.setresgid(0, 0, 0)
            os.setresuid(0, 0, 0)
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)

    def _ask_maker(self, request: dict[str, Any], uid_map: str, gid_map: str) -> int:
        asked = {name: request[name] for name in ("root", "processes")}
        packets.send(self._maker, asked | {"uid_map": uid_map, "gid_map": gid_map})
        answer, fds = packets.receive(self._maker)
        if answer is None or "error" in answer:
            raise OSError((answer or {}).get("error", "the maker of user namespaces is gone"))
        return fds[0]

    def _launch(self, request: dict[str, Any], fds: list[int]) -> tuple[int, int]:
        """Fork what becomes bwrap. Descriptors: channel, filters (2), errors, go, cgroups."""
        made = [self._ask_maker(request, request["lines"], request["lines"])]
        try:
            for mount in request["mounts"] if self._root else ():
                made.append(self._owner_as_user(request, mount["source"]))
            return syscalls.clone(
                syscalls.CLONE_NEWPID,
                lambda: self._become_bwrap(request, fds, made[0], made[1:]),
            )
        finally:
            for fd in made:
                os.close(fd)

    def _owner_as_user(self, request: dict[str, Any], source: str) -> int:
        """An id map by which who owns `source` is the sandbox's user, and nobody else anybody."""
        status, user = os.stat(source), request["user"]
        lines = (f"{number} {user} 1\n" for number in (status.st_uid, status.st_gid))
        return self._ask_maker(request, *lines)

    def _become_bwrap(
        self, request: dict[str, Any], fds: list[int], inner: int, owners: list[int]
    ) -> NoReturn:
        channel, outer_filter, inner_filter, errors, go = fds[:_CGROUP_FDS_FIRST]
        try:
            syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
            for fd in fds[_CGROUP_FDS_FIRST:]:
                os.write(fd, b"0")
            # One byte when the engine has put this process into its cgroup; nothing if it is gone.
            if os.read(go, 1) != b"g":
                os._exit(1)
            stage = request["stage"]
            syscalls.unshare(syscalls.CLONE_NEWNS)
            syscalls.mount("", "/", "", syscalls.MS_REC | syscalls.MS_PRIVATE)
            bubblewrap_stage.lay_out(stage, request, inner, owners)
            self._enter_outer()
            _own_network(request["ping_groups"])
            for number in (signal.SIGCHLD, signal.SIGPIPE, signal.SIGXFSZ):
                signal.signal(number, signal.SIG_DFL)
            os.chdir(f"{stage}/runtime")
            _arrange((channel, inner, outer_filter, inner_filter), errors)
            program = request["program"]
            os.execve(program[0], [*program, *request["arguments"]], {})  # noqa: S606
        except (OSError, ValueError) as error:
            os.write(errors, str(error).encode())
        os._exit(1)


def _outer_namespace(config: dict[str, Any]) -> int:
    """As host root: a user namespace of a block of ids that no account has."""
    line = f"0 {config['first_id']} {config['id_count']}\n"
    return user_namespaces.create(
        become=lambda: user_namespaces.charge_to_range(config["first_id"]),
        map_ids=lambda pid: user_namespaces.write_maps(pid, line, line),
        limits={},
    )


def _own_namespace() -> int:
    """Move into a user namespace of this account's, which is not mapped yet."""
    syscalls.unshare(syscalls.CLONE_NEWUSER)
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)
    return os.open("/proc/self/ns/user", os.O_RDONLY | os.O_CLOEXEC)


def _make_namespaces(sock: socket.socket) -> NoReturn:
    """The maker: one user namespace for each request, until the builder is gone."""
    while True:
        request, _ = packets.receive(sock)
        if request is None:
            os._exit(0)
        try:
            fd = user_namespaces.of_sandbox(
                request["root"], request["processes"], request["uid_map"], request["gid_map"]
            )
        except OSError as error:
            packets.send(sock, {"error": str(error)})
        else:
            packets.send(sock, {"ok": True}, (fd,))
            os.close(fd)


def _own_network(ping_groups: list[int]) -> None:
    """A network namespace of the outer user namespace, with loopback; bwrap is started in it."""
    syscalls.unshare(syscalls.CLONE_NEWNET)
    own_network.settle(*ping_groups)


def _arrange(wanted: tuple[int, ...], errors: int) -> None:
    """0 and 1 are /dev/null, 2 is `errors`, `wanted` follow; everything else is closed."""
    null = os.open("/dev/null", os.O_RDWR)
    high = [os.dup(fd) for fd in (null, null, errors, *wanted)]
    base = 64
    for offset, fd in enumerate(high):
        os.dup2(fd, base + offset)
    for offset in range(len(high)):
        os.dup2(base + offset, offset)
    os.closerange(len(high), 1 << 20)


if __name__ == "__main__":
    main()
