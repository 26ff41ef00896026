"""Namespaces and cgroups: whose they are, and the ways out through them."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from atoll.testing.attacks.probes.kit import Facts, Outcome, broke, call, held, worst

NAMES = ("mnt", "pid", "net", "ipc", "uts", "user", "cgroup")


def share_with_others(facts: Facts) -> Outcome:
    """Compare the inode of every namespace with the host's and the neighbour's."""
    tried = []
    for name in NAMES:
        inode = os.stat(f"/proc/self/ns/{name}").st_ino
        for whose in ("host", "neighbour"):
            shared = facts["namespaces"].get(whose, {}).get(name) == inode
            tried.append(
                Outcome(not shared, f"{name} {'shared with' if shared else 'not'} {whose}")
            )
    return worst(tried)


def _cgroup_mounts() -> list[str]:
    found = []
    with open("/proc/self/mountinfo") as mounts:
        for line in mounts:
            fields = line.split()
            if fields[fields.index("-") + 1].startswith("cgroup"):
                found.append(fields[4])
    return found


def write_cgroups(facts: Facts) -> Outcome:
    """Open every control file of every visible cgroup hierarchy for writing."""
    del facts
    found = []
    count = 0
    for mount in [*_cgroup_mounts(), "/sys/fs/cgroup"]:
        for directory, below, names in os.walk(mount):
            del below[64:]
            for name in names:
                count += 1
                try:
                    os.close(os.open(os.path.join(directory, name), os.O_WRONLY))
                except OSError:
                    continue
                found.append(os.path.join(directory, name))
            if count > 20_000:
                break
    if found:
        return broke(f"{len(found)} can be written, such as {found[:5]}")
    return held(f"{count} control files visible, none writable")


def release_agent(facts: Facts) -> Outcome:
    """Mount a v1 hierarchy and set the program that the host's kernel runs when it empties."""
    hierarchies = facts.get("hierarchies", ["rdma", "misc", "memory", "pids", "none,name=atoll"])
    target = tempfile.mkdtemp(prefix="atoll-attack-")
    tried = []
    for options in hierarchies:
        value, code = call("mount", b"cgroup", target.encode(), b"cgroup", 0, options.encode())
        if value == -1:
            tried.append(held(f"mount of cgroup {options}: errno {code}"))
            continue
        try:
            writable = os.access(f"{target}/release_agent", os.W_OK)
        finally:
            call("umount2", target.encode(), 2)
        tried.append(Outcome(not writable, f"cgroup {options} mounted, agent writable: {writable}"))
    return worst(tried)


def own_cgroup_view(facts: Facts) -> Outcome:
    """Read where we are in the hierarchy: nothing but the root of our own may show."""
    del facts
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    paths = {line.split(":", 2)[2] for line in lines}
    strange = {path for path in paths if path != "/"}
    return broke(f"the host's layout shows: {strange}") if strange else held("only / shows")


def change_maps(facts: Facts) -> Outcome:
    """Write one's own id maps again, and those of PID 1."""
    del facts
    tried = []
    for pid in ("self", "1"):
        for name in ("uid_map", "gid_map", "setgroups", "projid_map"):
            try:
                Path(f"/proc/{pid}/{name}").write_text("0 0 1" if name != "setgroups" else "allow")
            except OSError as error:
                tried.append(held(f"{pid}/{name}: errno {error.errno}"))
                continue
            tried.append(broke(f"/proc/{pid}/{name} was written"))
    return worst(tried)
