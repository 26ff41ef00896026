"""The Linux system calls that Python does not wrap, by ctypes.

Imported by the trusted bare processes of a shard as well as by the host: nothing but the
interpreter's own modules, and nothing done at import but binding libc.
Numbers: arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h.
"""

from __future__ import annotations

import ctypes
import os
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
_CLONE_PIDFD = 0x00001000
_CLONE_CHILD_SETTID = 0x01000000
_CLONE_CHILD_CLEARTID = 0x00200000
_CLONE_INTO_CGROUP = 0x200000000

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_SHARED = 1 << 20
MNT_DETACH = 2

OPEN_TREE_CLONE = 1
AT_RECURSIVE = 0x8000
AT_EMPTY_PATH = 0x1000
MOVE_MOUNT_F_EMPTY_PATH = 4
MOUNT_ATTR_RDONLY = 1
MOUNT_ATTR_NOSUID = 2
MOUNT_ATTR_NODEV = 4
MOUNT_ATTR_NOEXEC = 8
MOUNT_ATTR_IDMAP = 0x00100000

PR_SET_DUMPABLE = 4
PR_SET_KEEPCAPS = 8
_PR_CAPBSET_READ = 23
PR_CAPBSET_DROP = 24
PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
PR_SET_NO_NEW_PRIVS = 38
PR_GET_TID_ADDRESS = 40
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2

CAP_SYS_CHROOT = 18
CAP_SYS_ADMIN = 21

_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_SECCOMP = {"x86_64": 317, "aarch64": 277}
_CAPSET = {"x86_64": 126, "aarch64": 91}
_OPEN_TREE = 428
_MOVE_MOUNT = 429
_FSOPEN = 430
_FSCONFIG = 431
_FSMOUNT = 432
_CLONE3 = 435
_MOUNT_SETATTR = 442

_libc = ctypes.CDLL(None, use_errno=True)
# PyDLL keeps the interpreter lock: nothing of Python may run between a raw clone and its hooks.
_locked_libc = ctypes.PyDLL(None, use_errno=True)
_libc.prctl.argtypes = (ctypes.c_int, *[ctypes.c_ulong] * 4)
_machine = os.uname().machine


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def _call(what: str, number: int, *args: object) -> int:
    return _check(_libc.syscall(ctypes.c_long(number), *args), what)


def _numbered(what: str, table: dict[str, int]) -> int:
    if _machine not in table:
        raise OSError(f"{what}: Atoll does not know its number on {_machine}")
    return table[_machine]


def unshare(flags: int) -> None:
    """unshare(2)."""
    _check(_libc.unshare(flags), f"unshare({flags:#x})")


def setns(fd: int, kind: int) -> None:
    """setns(2)."""
    _check(_libc.setns(fd, kind), f"setns({kind:#x})")


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    """mount(2)."""
    result = _libc.mount(
        source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), data.encode()
    )
    _check(result, f"mount {kind or source} on {target} ({data})")


def umount(target: str, flags: int = 0) -> None:
    """umount2(2)."""
    _check(_libc.umount2(target.encode(), flags), f"umount {target}")


def pivot_root(new: str, old: str) -> None:
    """pivot_root(2)."""
    _call("pivot_root", _numbered("pivot_root", _PIVOT_ROOT), new.encode(), old.encode())


def open_tree(path: str, *, recursive: bool = False) -> int:
    """A detached copy of the mount at `path`, as a descriptor: open_tree(2)."""
    flags = OPEN_TREE_CLONE | os.O_CLOEXEC | (AT_RECURSIVE if recursive else 0)
    return _call(f"open_tree {path}", _OPEN_TREE, -100, path.encode(), flags)


def move_mount(fd: int, target: str) -> None:
    """Attach the detached mount `fd` at `target`: move_mount(2)."""
    _call(
        f"move_mount to {target}",
        _MOVE_MOUNT,
        fd,
        b"",
        -100,
        target.encode(),
        MOVE_MOUNT_F_EMPTY_PATH,
    )


def mount_setattr(fd: int, set_flags: int, userns: int = 0, *, recursive: bool = True) -> None:
    """Change the attributes of the mount `fd`: mount_setattr(2), Linux 5.12."""
    attributes = struct.pack("QQQQ", set_flags, 0, 0, userns)
    flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    _call("mount_setattr", _MOUNT_SETATTR, fd, b"", flags, attributes, len(attributes))


def filesystem(kind: str, options: dict[str, str], attributes: int = 0) -> int:
    """A detached mount of a new superblock: fsopen(2), fsconfig(2), fsmount(2)."""
    fd = _call(f"fsopen {kind}", _FSOPEN, kind.encode(), 1)
    try:
        for key, value in options.items():
            if value:
                _call(f"fsconfig {kind} {key}", _FSCONFIG, fd, 1, key.encode(), value.encode(), 0)
            else:
                _call(f"fsconfig {kind} {key}", _FSCONFIG, fd, 0, key.encode(), None, 0)
        _call(f"fsconfig {kind} create", _FSCONFIG, fd, 6, None, None, 0)
        return _call(f"fsmount {kind}", _FSMOUNT, fd, 1, attributes)
    finally:
        os.close(fd)


def prctl(option: int, *args: int) -> int:
    """prctl(2)."""
    return _check(_libc.prctl(option, *(*args, 0, 0, 0, 0)[:4]), f"prctl({option})")


def set_name(name: str) -> None:
    """What `ps` shows of this process, 15 bytes at most: prctl(2), PR_SET_NAME."""
    buffer = ctypes.create_string_buffer(name.encode()[:15])
    prctl(_PR_SET_NAME, ctypes.addressof(buffer))


def set_capabilities(permitted: int, inheritable: int = 0) -> None:
    """capset(2) of this thread: effective and permitted = `permitted`."""
    header = struct.pack("Ii", 0x20080522, 0)
    low, high = 0xFFFFFFFF, 32
    data = struct.pack(
        "IIIIII",
        permitted & low,
        permitted & low,
        inheritable & low,
        permitted >> high,
        permitted >> high,
        inheritable >> high,
    )
    _call("capset", _numbered("capset", _CAPSET), header, data)


def beyond(keep: int) -> list[int]:
    """The capabilities that this kernel knows and that are not in the mask `keep`."""
    number, found = 0, []
    while _libc.prctl(_PR_CAPBSET_READ, number, 0, 0, 0) >= 0:
        if not keep >> number & 1:
            found.append(number)
        number += 1
    return found


def limit_bounding_set(keep: int) -> None:
    """Drop every capability that is not in the mask `keep` from the bounding set."""
    for number in beyond(keep):
        prctl(PR_CAPBSET_DROP, number)


def install_filter(program: bytes) -> None:
    """Add a seccomp filter (an array of struct sock_filter) to this process: seccomp(2)."""
    buffer = ctypes.create_string_buffer(program, len(program))
    address = ctypes.addressof(buffer)
    fprog = struct.pack("HxxxxxxQ", len(program) // 8, address)
    _call("seccomp", _numbered("seccomp", _SECCOMP), 1, 0, fprog)


def clone(flags: int, child: Callable[[], None], cgroup: int = -1) -> tuple[int, int]:
    """Fork this single-threaded process with namespace `flags`; `child` never returns.

    With `cgroup`, a directory of cgroup v2, it is in there from its first instruction (Linux 5.7).

    A raw clone3 skips glibc's fork, so Python's own hooks are called around it, and the thread id
    that glibc keeps is renewed by CLONE_CHILD_SETTID at the address that it registered.

    Returns:
        The child's pid in this pid namespace, and its pidfd.
    """
    pidfd = ctypes.c_int(-1)
    tid = ctypes.c_ulong(0)
    if _libc.prctl(PR_GET_TID_ADDRESS, ctypes.addressof(tid), 0, 0, 0) == 0:
        flags |= _CLONE_CHILD_SETTID | _CLONE_CHILD_CLEARTID
    if cgroup >= 0:
        flags |= _CLONE_INTO_CGROUP
    arguments = struct.pack(
        "QQQQQQQQQQQ",
        flags | _CLONE_PIDFD,
        ctypes.addressof(pidfd),
        tid.value,
        0,
        17,  # SIGCHLD
        0,
        0,
        0,
        0,
        0,
        max(cgroup, 0),
    )
    api = ctypes.pythonapi
    api.PyOS_BeforeFork()
    pid = _locked_libc.syscall(ctypes.c_long(_CLONE3), arguments, len(arguments))
    if pid == 0:
        api.PyOS_AfterFork_Child()
        try:
            child()
        finally:
            os._exit(70)
    number = ctypes.get_errno()
    api.PyOS_AfterFork_Parent()
    if pid < 0:
        raise OSError(number, f"clone3({flags:#x}): {os.strerror(number)}")
    return pid, pidfd.value
