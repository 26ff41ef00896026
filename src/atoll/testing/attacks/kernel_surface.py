"""Attacks on the kernel through the calls that it offers."""

from __future__ import annotations

from atoll.testing.attacks.attempts import inside
from atoll.testing.attacks.model import Attack
from atoll.testing.attacks.probes import files, kernel_surface, processes

SECTION = "kernel surface"

_QUESTIONS = {
    "mount": "Can code mount a file system, or bind one elsewhere?",
    "remount": "Can code remount something read-only as writable, or drop its flags?",
    "umount": "Can code unmount what hides or bounds something?",
    "pivot-root": "Can code change its root mount?",
    "new-mount-calls": "Can code mount through fsopen, open_tree, move_mount or mount_setattr?",
    "unshare": "Can code make namespaces of its own with unshare?",
    "clone": "Can code make namespaces of its own with clone?",
    "clone3": "Can code make a user namespace with clone3, whose flags no filter sees?",
    "setns": "Can code enter a namespace, even its own again?",
    "mknod": "Can code make device nodes?",
    "swap": "Can code turn swap on or off?",
    "reboot": "Can code reboot the machine?",
    "kexec": "Can code load another kernel?",
    "modules": "Can code load or unload kernel modules?",
    "clock": "Can code set the machine's clock?",
    "hostname": "Can code change the host name?",
    "accounting": "Can code turn on process accounting or quotas?",
    "syslog": "Can code read the kernel's log?",
    "bpf": "Can code load BPF programs or make BPF maps?",
    "perf": "Can code open performance counters?",
    "io-uring": "Can code set up an io_uring, which makes calls that no filter sees?",
    "userfaultfd": "Can code stop the kernel inside a page fault with userfaultfd?",
    "keys": "Can code use the kernel's key rings, which no namespace divides?",
    "file-handles": "Can code open host files by their inode number (the shocker exploit)?",
    "fanotify": "Can code watch whole file systems with fanotify?",
    "personality": "Can code turn address randomisation off or make data executable?",
    "io-ports": "Can code talk to hardware ports?",
    "ldt": "Can code change its segment descriptors?",
    "old-calls": "Can code use calls that only very old programs know?",
    "x32": "Can code get round the filter through the x32 call table?",
    "i386": "Can code get round the filter through 32-bit calls (int 0x80)?",
}

_CALLS = tuple(
    inside(SECTION, name, question, kernel_surface.attempt, attempt=name)
    for name, question in _QUESTIONS.items()
)

ATTACKS: tuple[Attack, ...] = (
    *_CALLS,
    inside(
        SECTION,
        "devices",
        "Can code open a device of the machine, or make a node for it and open that?",
        files.open_devices,
    ),
    inside(
        SECTION,
        "settings",
        "Can code write kernel settings: /proc/sys, sysrq, core_pattern, binfmt_misc?",
        files.write_settings,
    ),
    inside(
        SECTION,
        "kernel-files",
        "Can code read kernel memory, addresses or lists: kcore, kallsyms, kmsg, timer_list, keys?",
        files.read_kernel_files,
    ),
    inside(SECTION, "sysfs", "Can code see /sys or a debugging file system?", files.use_sysfs),
    inside(
        SECTION,
        "tiocsti",
        "Can code type into its controlling terminal (TIOCSTI)?",
        processes.type_into_terminal,
    ),
    inside(SECTION, "tioclinux", "Can code paste into a console (TIOCLINUX)?", processes.tioclinux),
)
