"""System calls that reach too deep into the kernel, one attempt each, and the other doors to it.

What each needs and how it fails: its section 2 manual page. An attempt that the kernel or the
filter lets through succeeds or fails harmlessly on its arguments; both count as broken.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import struct
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from atoll.testing.attacks.probes.kit import (
    MACHINE,
    Facts,
    Outcome,
    broke,
    call,
    error_name,
    held,
    in_child,
    refused,
    worst,
)

AT_FDCWD = -100
NAMESPACE_FLAGS = {
    "time": 0x80,
    "mount": 0x20000,
    "cgroup": 0x02000000,
    "uts": 0x04000000,
    "ipc": 0x08000000,
    "user": 0x10000000,
    "pid": 0x20000000,
    "network": 0x40000000,
}


def _scratch() -> bytes:
    return tempfile.mkdtemp(prefix="atoll-attack-").encode()


def _scratch_file(content: bytes) -> bytes:
    descriptor, path = tempfile.mkstemp(prefix="atoll-attack-")
    os.write(descriptor, content)
    os.close(descriptor)
    return path.encode()


def _mount() -> Outcome:
    target = _scratch()
    kinds = (b"tmpfs", b"proc", b"sysfs", b"overlay", b"cgroup2", b"devpts", b"mqueue", b"ext4")
    tried = [refused("mount", b"none", target, kind, 0, None) for kind in kinds]
    ms_bind = 0x1000
    tried.append(refused("mount", b"/", target, None, ms_bind, None))
    return worst(tried)


def _remount() -> Outcome:
    ms_remount_bind = 0x20 | 0x1000
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    targets = [line.split()[4].encode() for line in mounts]
    return worst(refused("mount", b"none", t, None, ms_remount_bind, None) for t in targets)


def _umount() -> Outcome:
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    targets = [line.split()[4] for line in mounts]
    chosen = [t for t in targets if t not in ("/",)][-3:]
    mnt_detach = 2
    return worst(refused("umount2", t.encode(), mnt_detach) for t in chosen or ["/"])


def _pivot_root() -> Outcome:
    target = _scratch()
    return refused("pivot_root", target, target)


def _new_mount_calls() -> Outcome:
    attributes = ctypes.create_string_buffer(32)
    open_tree_clone = 1
    return worst(
        [
            refused("fsopen", b"tmpfs", 0),
            refused("fsconfig", -1, 0, None, None, 0),
            refused("fsmount", -1, 0, 0),
            refused("fspick", AT_FDCWD, b"/", 0),
            refused("open_tree", AT_FDCWD, b"/", open_tree_clone),
            refused("move_mount", -1, b"", -1, b"", 0),
            refused("mount_setattr", AT_FDCWD, b"/", 0, attributes, 32),
        ]
    )


def _unshare() -> Outcome:
    return worst(
        in_child(partial(refused, "unshare", flag))
        for flag in [*NAMESPACE_FLAGS.values(), 0x10000000 | 0x20000]
    )


def _cloned(name: str, *arguments: object) -> Outcome:
    value, code = call(name, *arguments)
    if value == 0:
        os._exit(0)
    if value > 0:
        os.waitpid(value, 0)
        return broke(f"{name} made a child in a namespace of its own")
    if code in (errno.EPERM, errno.ENOSYS):
        return held(f"{name}: {error_name(code)}")
    return broke(f"{name} was let through as far as its arguments: {error_name(code)}")


def _clone() -> Outcome:
    return worst(
        in_child(partial(_cloned, "clone", flag | 17, 0, 0, 0, 0))
        for flag in NAMESPACE_FLAGS.values()
        if flag != NAMESPACE_FLAGS["time"]
    )


def _clone3() -> Outcome:
    def attempt() -> Outcome:
        flags = NAMESPACE_FLAGS["user"] | NAMESPACE_FLAGS["mount"]
        arguments = struct.pack("8Q", flags, 0, 0, 0, 17, 0, 0, 0)
        return _cloned("clone3", arguments, len(arguments))

    return in_child(attempt)


def _setns() -> Outcome:
    tried = []
    for name in ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup"):
        descriptor = os.open(f"/proc/self/ns/{name}", os.O_RDONLY)
        tried.append(in_child(partial(refused, "setns", descriptor, 0)))
        os.close(descriptor)
    return worst(tried)


def _mknod() -> Outcome:
    tried = []
    for kind, major, minor in ((0o060000, 254, 0), (0o020000, 1, 11), (0o020000, 10, 200)):
        path = _scratch() + b"/device"
        outcome = refused("mknodat", AT_FDCWD, path, kind | 0o600, os.makedev(major, minor))
        tried.append(outcome)
    return worst(tried)


def _swap() -> Outcome:
    area = _scratch_file(bytes(1 << 16))
    return worst([refused("swapon", area, 0), refused("swapoff", area)])


def _reboot() -> Outcome:
    # CAD_OFF only says who handles Ctrl-Alt-Del; in a pid namespace it ends with EINVAL.
    return refused("reboot", 0xFEE1DEAD, 672274793, 0, None)


def _kexec() -> Outcome:
    # 17 segments is one more than the kernel takes: EINVAL after the permission check.
    file_load = refused("kexec_file_load", -1, -1, 0, b"", 0)
    return worst([refused("kexec_load", 0, 17, None, 0), file_load])


def _modules() -> Outcome:
    junk = _scratch_file(b"not a module")
    descriptor = os.open(junk, os.O_RDONLY)
    return worst(
        [
            refused("init_module", b"junk", 4, b""),
            refused("finit_module", descriptor, b"", 0),
            refused("delete_module", b"atoll_no_such_module", os.O_NONBLOCK),
        ]
    )


def _clock() -> Outcome:
    now = time.time_ns()
    moment = struct.pack("2q", now // 10**9, now % 10**9)
    tv = struct.pack("2q", now // 10**9, now % 10**9 // 1000)
    timex = ctypes.create_string_buffer(208)
    call("adjtimex", timex)
    struct.pack_into("I", timex, 0, 0x4000)  # ADJ_TICK with the tick that was just read
    return worst(
        [
            refused("settimeofday", tv, None),
            refused("clock_settime", 0, moment),
            refused("adjtimex", timex),
        ]
    )


def _hostname() -> Outcome:
    before = os.uname().nodename
    tried = [refused("sethostname", b"owned", 5), refused("setdomainname", b"owned", 5)]
    if os.uname().nodename != before:
        tried.append(broke("the host name changed"))
    return worst(tried)


def _accounting() -> Outcome:
    outcome = refused("acct", _scratch_file(b""))
    if not outcome.blocked:
        call("acct", None)
    q_quotaon = 0x800002 << 8
    quota = refused("quotactl", q_quotaon, b"/dev/null", 0, b"/")
    return worst([outcome, quota, refused("quotactl_fd", -1, q_quotaon, 0, None)])


def _syslog() -> Outcome:
    buffer = ctypes.create_string_buffer(4096)
    read_all, size_buffer = 3, 10
    return worst(
        [refused("syslog", read_all, buffer, 4096), refused("syslog", size_buffer, None, 0)]
    )


def _bpf() -> Outcome:
    map_create = struct.pack("4I", 2, 4, 4, 1) + bytes(56)
    instructions = ctypes.create_string_buffer(struct.pack("2Q", 0xB7, 0x95))
    licence = ctypes.create_string_buffer(b"GPL")
    program = struct.pack("2I2Q", 1, 2, ctypes.addressof(instructions), ctypes.addressof(licence))
    program += bytes(48)
    return worst(
        [refused("bpf", 0, map_create, len(map_create)), refused("bpf", 5, program, len(program))]
    )


def _perf() -> Outcome:
    tried = []
    for kind, config in ((1, 0), (0, 0), (2, 1)):
        attributes = struct.pack("2IQ", kind, 112, config) + bytes(96)
        tried.append(refused("perf_event_open", attributes, 0, -1, -1, 0))
    return worst(tried)


def _io_uring() -> Outcome:
    parameters = ctypes.create_string_buffer(120)
    return worst(
        [
            refused("io_uring_setup", 1, parameters),
            refused("io_uring_enter", -1, 0, 0, 0, None, 0),
            refused("io_uring_register", -1, 0, None, 0),
        ]
    )


def _userfaultfd() -> Outcome:
    user_mode_only = 1
    tried = [refused("userfaultfd", user_mode_only), refused("userfaultfd", 0)]
    if os.path.exists("/dev/userfaultfd"):
        tried.append(broke("/dev/userfaultfd is here"))
    return worst(tried)


def _keys() -> Outcome:
    process_keyring, session_keyring = -2, -3
    return worst(
        [
            refused("add_key", b"user", b"atoll", b"x", 1, process_keyring),
            refused("request_key", b"user", b"atoll-none", None, process_keyring),
            refused("keyctl", 0, session_keyring, 1),
        ]
    )


def _handles() -> Outcome:
    """Open inode 2 of whatever carries each directory, as the "shocker" exploit did."""
    tried = []
    for path in ("/", "/usr", "/tmp", "/home"):
        directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        handle = struct.pack("IiII", 8, 1, 2, 0)
        tried.append(refused("open_by_handle_at", directory, handle, os.O_RDONLY))
        os.close(directory)
    return worst(tried)


def _fanotify() -> Outcome:
    return worst([refused("fanotify_init", flags, os.O_RDONLY) for flags in (0, 0x200, 4)])


def _personality() -> Outcome:
    tried = []
    for name, wanted in (("ADDR_NO_RANDOMIZE", 0x0040000), ("READ_IMPLIES_EXEC", 0x0400000)):
        call("personality", wanted)
        now, _ = call("personality", 0xFFFFFFFF)
        got = now != -1 and now & wanted
        tried.append(broke(f"{name} is set") if got else held(f"{name}: not set"))
        call("personality", 0)
    return worst(tried)


def _ports() -> Outcome:
    return worst([refused("iopl", 3), refused("ioperm", 0x80, 1, 1)])


def _ldt() -> Outcome:
    entry = struct.pack("4I", 0, 0, 0xFFFFF, 0b1010001)
    return refused("modify_ldt", 1, entry, len(entry))


def _old() -> Outcome:
    """Calls that only very old programs know and that have had holes."""
    return worst(
        [
            refused("uselib", b"/bin/true"),
            refused("_sysctl", None),
            refused("nfsservctl", 0, None, None),
            refused("lookup_dcookie", 0, None, 0),
            refused("vhangup"),
        ]
    )


def _x32() -> Outcome:
    if MACHINE != "x86_64":
        return held(f"there is no x32 on {MACHINE}")

    def attempt() -> Outcome:
        x32_bit, getpid = 0x40000000, 39
        value, code = call(x32_bit | getpid)
        if value == os.getpid():
            return broke("getpid through the x32 table worked")
        return held(f"x32 getpid: {error_name(code)}")

    return in_child(attempt)


def _i386() -> Outcome:
    """mov eax, <call>; int 0x80; ret: getpid and, of those that a filter forgets, unshare."""
    if MACHINE != "x86_64":
        return held(f"there is no int 0x80 on {MACHINE}")

    def attempt() -> Outcome:
        page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        # push rbx; mov eax, 20; xor ebx, ebx; int 0x80; pop rbx; ret
        page.write(bytes.fromhex("53b81400000031dbcd805bc3"))
        address = ctypes.addressof(ctypes.c_char.from_buffer(page))
        value = ctypes.CFUNCTYPE(ctypes.c_int)(address)()
        if value == os.getpid():
            return broke("getpid through int 0x80 worked")
        return held(f"int 0x80 getpid: {value}")

    return in_child(attempt)


ATTEMPTS: dict[str, Callable[[], Outcome]] = {
    "mount": _mount,
    "remount": _remount,
    "umount": _umount,
    "pivot-root": _pivot_root,
    "new-mount-calls": _new_mount_calls,
    "unshare": _unshare,
    "clone": _clone,
    "clone3": _clone3,
    "setns": _setns,
    "mknod": _mknod,
    "swap": _swap,
    "reboot": _reboot,
    "kexec": _kexec,
    "modules": _modules,
    "clock": _clock,
    "hostname": _hostname,
    "accounting": _accounting,
    "syslog": _syslog,
    "bpf": _bpf,
    "perf": _perf,
    "io-uring": _io_uring,
    "userfaultfd": _userfaultfd,
    "keys": _keys,
    "file-handles": _handles,
    "fanotify": _fanotify,
    "personality": _personality,
    "io-ports": _ports,
    "ldt": _ldt,
    "old-calls": _old,
    "x32": _x32,
    "i386": _i386,
}


def attempt(facts: Facts) -> Outcome:
    """Make the attempt that the facts name."""
    return ATTEMPTS[facts["attempt"]]()
