"""User namespaces that no process stays in: made by a fork that ends, kept by a descriptor.

Interpreter's modules only: it runs in the trusted processes that prepare sandboxes.
"""

from __future__ import annotations

import os
import resource
import socket

from atoll.launch.linux import syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import NoReturn

_SANDBOX_LIMITS = {
    "max_inotify_instances": 32,
    "max_inotify_watches": 65536,
    "max_user_namespaces": 0,
    "max_mnt_namespaces": 0,
    "max_net_namespaces": 0,
    "max_pid_namespaces": 0,
    "max_ipc_namespaces": 0,
    "max_uts_namespaces": 0,
    "max_cgroup_namespaces": 0,
    "max_time_namespaces": 0,
}
"""Ceilings of what the kernel counts per user (ucounts) in one sandbox.

Siblings are charged to the same owner: without ceilings they could starve each other.
"""


def create(
    become: Callable[[], None],
    map_ids: Callable[[int], None],
    limits: Mapping[str, int],
) -> int:
    """A new user namespace, as a descriptor.

    Args:
        become: run by the fork that makes it, and so becomes the one who is charged for it.
        map_ids: told the fork's pid; gives it its id maps.
        limits: written to its /proc/sys/user, as far as this kernel has them.

    Raises:
        OSError: the kernel refused a step; what `map_ids` raises.
    """
    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        mine.close()
        _hold(theirs, become, limits)
    theirs.close()
    try:
        with mine:
            _expect(mine, b"made", "the kernel refused a user namespace")
            map_ids(pid)
            fd = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
            try:
                mine.send(b"mapped")
                _expect(mine, b"limited", "the limits of a user namespace could not be written")
            except BaseException:
                os.close(fd)
                raise
            return fd
    finally:
        _await_end(pid)


def of_sandbox(owner: int, processes: int, uid_map: str, gid_map: str) -> int:
    """A sandbox's own user namespace, or an id map of the same owner, as a descriptor.

    Args:
        owner, processes: see `charge_to`.
        uid_map, gid_map: as a process of this user namespace writes them.
    """
    return create(
        become=lambda: charge_to(owner, processes),
        map_ids=lambda pid: write_maps(pid, uid_map, gid_map),
        limits=_SANDBOX_LIMITS,
    )


def charge_to(owner: int, processes: int = 0) -> None:
    """Become an id of this user namespace: what this process makes is charged to it.

    Args:
        owner: uid and gid.
        processes: ceiling of the processes in all user namespaces made from now on; 0 for none.
    """
    if processes:
        # Becomes the ceiling of the whole user namespace, counted on its creator (ucounts,
        # Linux 5.14); so the creator is an id that no other sandbox has.
        resource.setrlimit(resource.RLIMIT_NPROC, (processes, processes))
    os.setresgid(owner, owner, owner)
    os.setresuid(owner, owner, owner)


def charge_to_range(first: int) -> None:
    """As host root become `first` of a range of ids, with what it takes to map them all.

    The creator is charged for everything in a user namespace (ucounts): never host root.
    """
    syscalls.prctl(syscalls.PR_SET_KEEPCAPS, 1)
    os.setgroups([])
    charge_to(first)
    syscalls.set_capabilities(_CAPABILITIES_TO_MAP)


def spare_the_account() -> None:
    """Leave the account something of what all sandboxes in this user namespace are charged for."""
    write("/proc/sys/user/max_inotify_instances", "100")


_CAPABILITIES_TO_MAP = 1 << syscalls.CAP_SYS_ADMIN | 1 << 6 | 1 << 7


def write_maps(pid: int, uid_map: str, gid_map: str) -> None:
    """Give the user namespace of `pid` its id maps (user_namespaces(7))."""
    write(f"/proc/{pid}/uid_map", uid_map)
    write(f"/proc/{pid}/gid_map", gid_map)


def write(path: str, text: str) -> None:
    """Hand the kernel a setting in one write: it takes an id map in no other way."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _expect(sock: socket.socket, word: bytes, otherwise: str) -> None:
    answer = sock.recv(1024)
    if answer != word:
        raise OSError(f"{otherwise}: {answer.decode(errors='replace') or 'its maker ended'}")


def _hold(sock: socket.socket, become: Callable[[], None], limits: Mapping[str, int]) -> NoReturn:
    try:
        become()
        syscalls.unshare(syscalls.CLONE_NEWUSER)
        # Only a dumpable process's /proc files belong to its own user, who writes the map.
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)
        sock.send(b"made")
        if sock.recv(16) == b"mapped":
            for name, value in limits.items():
                if os.path.exists(f"/proc/sys/user/{name}"):
                    write(f"/proc/sys/user/{name}", str(value))
            sock.send(b"limited")
    except OSError as error:
        sock.send(str(error).encode())
    finally:
        os._exit(0)


def _await_end(pid: int) -> None:
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:
        return  # who ignores SIGCHLD is told so, once the child has ended (waitpid(2))
