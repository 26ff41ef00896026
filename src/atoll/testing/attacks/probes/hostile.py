"""What a hostile preload does beside the ordinary probes; it runs in the heavy zygote."""

from __future__ import annotations

import ctypes
import os
import struct
import time

from atoll.testing.attacks.probes.kit import Facts, Outcome, broke, call, held, in_child, worst

_MS_REMOUNT_BIND = 0x20 | 0x1000
_AT_RECURSIVE, _MOUNT_ATTR_RDONLY = 0x8000, 1


def make_lower_writable(facts: Facts) -> Outcome:
    """Remount every read-only mount writable by three ways, then write the mark beside its files.

    The host looks for the mark: a write that lands in an upper of our own is no breach.
    """
    with open("/proc/self/mountinfo") as table:
        rows = [line.split() for line in table]
    targets = {row[4] for row in rows} | {"/", "/usr", "/.atoll", "/etc"}
    chosen = facts.get("targets", sorted(targets))
    reports = [_force(target, facts["mark"]) for target in chosen]
    return held("; ".join(report for report in reports if report) or "every way was refused")


def _force(target: str, mark: str) -> str:
    done = []
    if call("mount", b"none", target.encode(), None, _MS_REMOUNT_BIND, None)[0] == 0:
        done.append("remounted")
    clear = ctypes.create_string_buffer(struct.pack("4Q", 0, _MOUNT_ATTR_RDONLY, 0, 0))
    if call("mount_setattr", -100, target.encode(), _AT_RECURSIVE, clear, 32)[0] == 0:
        done.append("attributes cleared")
    tree, _ = call("open_tree", -100, target.encode(), 1)
    if tree >= 0:
        done.append("cloned")
        call("mount_setattr", tree, b"", _AT_RECURSIVE | 0x1000, clear, 32)
        done += _write(f"/proc/self/fd/{tree}", mark)
    done += _write(target, mark)
    return f"{target}: {', '.join(done)}" if done else ""


def _write(directory: str, mark: str) -> list[str]:
    try:
        with open(os.path.join(directory, mark), "w") as file:
            file.write(mark)
    except OSError:
        return []
    return ["wrote"]


def mount_anything(facts: Facts) -> Outcome:
    """Mount what an overlay of our own, a block device, proc, sysfs or cgroups would show."""
    del facts
    tried = []
    target = b"/tmp"
    for kind, source in (
        (b"sysfs", b"sysfs"),
        (b"cgroup2", b"cgroup2"),
        (b"cgroup", b"memory"),
        (b"ext4", b"/dev/vda"),
        (b"debugfs", b"none"),
        (b"tracefs", b"none"),
        (b"securityfs", b"none"),
        (b"bpf", b"none"),
        (b"devtmpfs", b"none"),
        (b"binfmt_misc", b"none"),
    ):
        options = source if kind == b"cgroup" else None
        if call("mount", source, target, kind, 0, options)[0] == 0:
            writable = _any_writable("/tmp")
            call("umount2", target, 2)
            # One of our own namespaces may show; nothing in it may be writable.
            tried.append(Outcome(not writable, f"{kind.decode()} mounted, writable {writable}"))
        else:
            tried.append(held(f"{kind.decode()} refused"))
    return worst(tried)


def _any_writable(directory: str) -> list[str]:
    found = []
    for root, _, names in os.walk(directory):
        for name in names:
            try:
                os.close(os.open(os.path.join(root, name), os.O_WRONLY | os.O_NONBLOCK))
            except OSError:
                continue
            found.append(os.path.join(root, name))
        if len(found) > 3:
            break
    return found[:3]


def leave_helper(facts: Facts) -> Outcome:
    """Keep a process beside the zygote that outlives its parent, its session and its pipes."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.closerange(0, 1024)
            end = time.monotonic() + float(facts["seconds"])
            while time.monotonic() < end:
                time.sleep(0.2)
        os._exit(0)
    return held("a helper stays")


def use_up(facts: Facts) -> Outcome:
    """Take processes, inotify instances and memory, and keep them as long as the zygote lives."""
    libc = ctypes.CDLL(None)
    taken = 0
    while taken < 20_000 and libc.inotify_init1(0) >= 0:
        taken += 1
    children = 0
    while children < int(facts["processes"]):
        try:
            child = os.fork()
        except OSError:
            break
        if child == 0:
            time.sleep(float(facts["seconds"]))
            os._exit(0)
        children += 1
    return held(f"{taken} inotify instances, {children} processes")


def own_walls(facts: Facts) -> Outcome:
    """The zygote itself stands behind the filter and no_new_privs, with no host capability."""
    del facts

    def look() -> Outcome:
        with open("/proc/self/status") as file:
            lines = dict(line.split(":\t", 1) for line in file.read().splitlines() if ":\t" in line)
        walls = lines["Seccomp"] == "2" and lines["NoNewPrivs"] == "1"
        uid = os.getuid()
        text = f"Seccomp {lines['Seccomp']}, NoNewPrivs {lines['NoNewPrivs']}, uid {uid}"
        return held(text) if walls else broke(text)

    return in_child(look)
