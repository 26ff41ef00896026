"""Files that are the host's or the neighbour's, devices, and what /proc and /sys give away."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from atoll.testing.attacks.probes.kit import (
    Facts,
    Outcome,
    broke,
    error_name,
    held,
    in_child,
    read_some,
    tokens_in,
    worst,
)

_HARMLESS_DEVICES = frozenset({(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2)})


# To open a watchdog starts it; to open snapshot prepares the machine for hibernation.
_NEVER_OPENED = ("watchdog", "snapshot")


def _starts() -> Iterator[str]:
    """Every directory from which a file tree may be entered."""
    yield "/"
    with open("/proc/self/mountinfo") as mounts:
        for line in mounts:
            yield line.split()[4].replace("\\040", " ")
    for pid in [name for name in os.listdir("/proc") if name.isdigit()]:
        for name in ("root", "cwd"):
            yield f"/proc/{pid}/{name}/"
        for number in range(16):
            yield f"/proc/{pid}/fd/{number}/"
    yield "/" + "../" * 40
    yield "/proc/self/root/../../../"


def read_host_files(facts: Facts) -> Outcome:
    """Open the host's and the neighbour's files by their host paths, from every start there is."""
    found = []
    tried = 0
    for start in dict.fromkeys(_starts()):
        for path in facts["paths"]:
            tried += 1
            try:
                data = read_some(os.path.join(start, path.lstrip("/")), 1 << 16)
            except OSError:
                continue
            names = tokens_in(data, facts)
            found += [f"{names} through {start}"] if names else []
    return broke("; ".join(found)) if found else held(f"{tried} paths, no foreign byte")


def _walk(limit: int) -> Iterator[os.DirEntry[str]]:
    pending = ["/"]
    while pending and limit > 0:
        try:
            entries = list(os.scandir(pending.pop()))
        except OSError:
            continue
        for entry in entries:
            limit -= 1
            yield entry
            if entry.is_dir(follow_symlinks=False) and entry.path not in ("/proc", "/sys"):
                pending.append(entry.path)


def search_tree(facts: Facts) -> Outcome:
    """Walk the whole visible tree for the host's marked files, sockets to servers, and devices."""
    marks = set(facts["names"])
    found = []
    count = 0
    for entry in _walk(2_000_000):
        count += 1
        if entry.name in marks:
            found.append(f"{entry.path} is the host's")
        mode = _mode(entry)
        if stat.S_ISSOCK(mode) and _connects(entry.path):
            found.append(f"a server answers at {entry.path}")
        if stat.S_ISBLK(mode) or stat.S_ISCHR(mode):
            found += _device(entry.path)
    return broke("; ".join(found)) if found else held(f"{count} entries, nothing of the host's")


def _mode(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat(follow_symlinks=False).st_mode
    except OSError:
        return 0


def _connects(path: str) -> bool:
    for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_UNIX, kind) as client:
            client.settimeout(1)
            try:
                client.connect(path)
            except OSError:
                continue
            return True
    return False


def _device(path: str) -> list[str]:
    number = os.stat(path, follow_symlinks=False).st_rdev
    pair = (os.major(number), os.minor(number))
    if pair in _HARMLESS_DEVICES or 136 <= pair[0] <= 143:  # 136-143: pseudoterminals
        return []
    if os.path.basename(path).startswith(_NEVER_OPENED):
        return [f"device {path} {pair} is here"]
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
    except OSError:
        return []
    return [f"device {path} {pair} opens"]


def open_devices(facts: Facts) -> Outcome:
    """Open what is in /dev, then make device nodes in every writable place and open those."""
    del facts
    tried = [_try_open(f"/dev/{name}") for name in _NAMED_DEVICES]
    for directory in ("/tmp", "/dev/shm", "/home/user", "/var/tmp", "/opt", "/dev"):
        for kind, major, minor in _NUMBERED_DEVICES:
            path = f"{directory}/atoll-attack-device-{major}-{minor}"
            try:
                os.mknod(path, kind | 0o666, os.makedev(major, minor))
            except OSError:
                continue
            tried.append(_try_open(path))
            os.unlink(path)
    return worst(tried)


_NAMED_DEVICES = (
    *("mem", "kmem", "port", "kmsg", "kvm", "fuse", "net/tun", "loop-control", "loop0", "vda"),
    *("sda", "nvme0n1", "console", "tty0", "tty1", "vhost-net", "vhost-vsock", "vsock"),
    *("userfaultfd", "rtc0", "hpet", "cuse", "uinput", "nvram", "mapper/control"),
)
_NUMBERED_DEVICES = (
    *((stat.S_IFBLK, major, 0) for major in (7, 8, 252, 253, 254, 259)),
    *((stat.S_IFCHR, 1, minor) for minor in (1, 4, 11)),
    *((stat.S_IFCHR, 10, minor) for minor in (200, 229, 232, 237)),
    (stat.S_IFCHR, 5, 1),
)


def _try_open(path: str) -> Outcome:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        # ENXIO and ENODEV: the open reached a driver that has no such device.
        reached = error.errno in (errno.ENXIO, errno.ENODEV)
        return Outcome(not reached, f"{path}: {error_name(error.errno or 0)}")
    os.close(descriptor)
    return broke(f"{path} opens")


def write_settings(facts: Facts) -> Outcome:
    """Open every file of /proc/sys, and the well-known triggers, for writing.

    Fact `own`: names of settings that belong to a namespace of the prober's own.
    """
    own = tuple(facts.get("own", ()))
    paths = [
        os.path.join(where, name) for where, _, names in os.walk("/proc/sys") for name in names
    ]
    paths += _TRIGGERS
    found = [p for p in paths if _opens_for_writing(p) and os.path.basename(p) not in own]
    if found:
        return broke(f"{len(found)} can be written, such as {found[:8]}")
    return held(f"{len(paths)} settings, none writable")


_TRIGGERS = (
    *("/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe"),
    *("/proc/sys/fs/binfmt_misc/register", "/sys/kernel/uevent_helper"),
    *(
        "/sys/kernel/mm/transparent_hugepage/enabled",
        "/sys/power/state",
        "/proc/irq/default_smp_affinity",
    ),
    *("/proc/mtrr", "/proc/acpi/wakeup", "/proc/scsi/scsi"),
)


def _opens_for_writing(path: str) -> bool:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        if path.endswith("/ns_last_pid"):
            # Mode 0666, but a write wants CAP_CHECKPOINT_RESTORE (pid_namespaces(7)).
            os.write(descriptor, read_some(path, 64))
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def read_kernel_files(facts: Facts) -> Outcome:
    """Read the files of /proc that give away the kernel's addresses, memory or log."""
    del facts
    tried = [_kernel_addresses()]
    for path in _KERNEL_FILES:
        try:
            data = read_some(path, 4096)
        except OSError as error:
            tried.append(held(f"{path}: {error_name(error.errno or 0)}"))
            continue
        tried.append(broke(f"{path} gives {len(data)} bytes") if data else held(f"{path}: empty"))
    return worst(tried)


_KERNEL_FILES = (
    *("/proc/kcore", "/proc/kmsg", "/proc/kpagecount", "/proc/kpageflags", "/proc/slabinfo"),
    *("/proc/vmallocinfo", "/proc/pagetypeinfo", "/proc/timer_list", "/proc/sched_debug"),
    *("/proc/kallsyms.gz", "/proc/config_secret", "/proc/latency_stats", "/proc/keys"),
    *("/proc/vmcore", "/proc/bus/pci/devices", "/proc/asound/cards", "/proc/device-tree/model"),
)


def _kernel_addresses() -> Outcome:
    tried = []
    for path in ("/proc/kallsyms", "/proc/modules", "/proc/iomem", "/proc/ioports"):
        try:
            text = Path(path).read_text()
        except OSError as error:
            tried.append(held(f"{path}: {error_name(error.errno or 0)}"))
            continue
        addresses = [int(a, 16) for a in re.findall(r"\b(?:0x)?[0-9a-f]{8,16}\b", text[:65536])]
        leaks = any(addresses)
        tried.append(Outcome(not leaks, f"{path}: {'addresses' if leaks else 'zeros'}"))
    return worst(tried)


def read_host_facts(facts: Facts) -> Outcome:
    """Compare what the sandbox sees of identity files with the host's own."""
    tried = []
    for path, digest in facts["host_files"].items():
        try:
            data = read_some(path, 1 << 20)
        except OSError as error:
            tried.append(held(f"{path}: {error_name(error.errno or 0)}"))
            continue
        same = bool(data) and hashlib.sha256(data).hexdigest() == digest
        tried.append(Outcome(not same, f"{path}: {'the host’s own' if same else 'another'}"))
    return worst(tried)


def use_sysfs(facts: Facts) -> Outcome:
    """Look for a mounted sysfs, debugfs, tracefs, securityfs, configfs or bpf file system."""
    del facts
    kinds = {"sysfs", "debugfs", "tracefs", "securityfs", "configfs", "bpf", "efivarfs", "pstore"}
    found = []
    with open("/proc/self/mountinfo") as mounts:
        for line in mounts:
            fields = line.split()
            if fields[fields.index("-") + 1] in kinds:
                found.append(fields[4])
    for path in ("/sys/kernel/vmcoreinfo", "/sys/class/net", "/sys/kernel/debug"):
        if os.path.exists(path):
            found.append(path)
    return broke(f"visible: {found}") if found else held("no /sys of the host")


def write_template(facts: Facts) -> Outcome:
    """Write into the template's files; the host tells whether its own changed."""
    mark = facts["mark"].encode()
    written = []
    for path in facts["paths"]:
        for attempt in (_append, _replace):
            try:
                attempt(path, mark)
            except OSError:
                continue
            written.append(path)
    # Writing is no breach: it lands in the sandbox's own layer. The host compares its files.
    return held(f"written inside: {sorted(set(written))}")


def _append(path: str, mark: bytes) -> None:
    with open(path, "ab") as file:
        file.write(mark)


def _replace(path: str, mark: bytes) -> None:
    shutil.copyfile(path, path + ".atoll")
    with open(path + ".atoll", "ab") as file:
        file.write(mark)
    os.rename(path + ".atoll", path)


def leave_chroot(facts: Facts) -> Outcome:
    """The classic way out: chroot below, fchdir back out, climb, and look for the host's files."""

    def attempt() -> Outcome:
        above = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
        os.chroot(tempfile.mkdtemp(prefix="atoll-attack-"))
        os.fchdir(above)
        for _ in range(64):
            os.chdir("..")
        os.chroot(".")
        found = []
        for path in facts["paths"]:
            try:
                found += tokens_in(read_some(path, 1 << 16), facts)
            except OSError:
                continue
        return broke(f"read {found}") if found else held("climbing ends at the sandbox's root")

    return in_child(attempt)


def hard_link_foreign(facts: Facts) -> Outcome:
    """Hard-link foreign files into one's own directories; a link would share the host's inode."""
    made = []
    for directory in ("/home/user", "/tmp", "/var/tmp"):
        target = f"{directory}/atoll-attack-link-{os.getpid()}"
        for path in facts["paths"]:
            try:
                os.link(path, target)
            except OSError:
                continue
            if tokens_in(read_some(target, 1 << 16), facts):
                made.append(path)
            os.unlink(target)
    return broke(f"linked {made}") if made else held("no foreign file can be linked")


def mount_table(facts: Facts) -> Outcome:
    """Look for the host's own directories in the mount table, and for writable foreign mounts."""
    text = Path("/proc/self/mountinfo").read_text()
    shown = [path for path in facts["directories"] if path in text]
    return broke(f"the table names {shown}") if shown else held("no host directory is named")
