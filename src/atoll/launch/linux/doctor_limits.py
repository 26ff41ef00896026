"""The checks of this machine's own ceilings: how many sandboxes fit below them."""

from __future__ import annotations

from dataclasses import dataclass

from atoll.launch.linux.doctor_machine import Check, Machine
from atoll.launch.linux.walls_situation import Column

_CAP_SYS_RESOURCE = 24
_NETWORK_MODULES = ("nf_tables", "nft_chain_nat", "nft_redir", "nf_conntrack")
_REMOTE = frozenset({"nfs", "nfs4", "cifs", "smb3", "9p", "drvfs", "fuse", "fuseblk"})


@dataclass(frozen=True)
class _Ceiling:
    """A sysctl below which fewer than some 1,000 sandboxes fit.

    The figures: six namespaces, 15 mounts and some five processes a sandbox; one inotify instance
    a watching sandbox; six descriptors a connection and five a sandbox.
    """

    sysctl: str
    least: int
    why: str


_CEILINGS = (
    *(
        _Ceiling(f"user.max_{kind}_namespaces", 2048, "a sandbox has one of each kind")
        for kind in ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup")
    ),
    _Ceiling("fs.inotify.max_user_instances", 128, "watches of directories"),
    _Ceiling("fs.mount-max", 20000, "a sandbox has some 15 mounts"),
    _Ceiling("kernel.pid_max", 32768, "processes of all sandboxes"),
    _Ceiling("net.netfilter.nf_conntrack_max", 65536, "connections of all sandboxes"),
)


def ceilings(machine: Machine) -> list[Check]:
    """One check for all that are high enough, and one for each that is not."""
    found = []
    for ceiling in _CEILINGS:
        value = machine.sysctl(ceiling.sysctl)
        if value is None or value >= ceiling.least or value == 0:
            # Zero is a refusal, which the check of user namespaces names.
            continue
        fix = (
            f"`echo {ceiling.sysctl}={ceiling.least} | sudo tee -a /etc/sysctl.d/60-atoll.conf "
            "&& sudo sysctl --system`"
        )
        seen = f"{ceiling.sysctl} is {value} ({ceiling.why}); enough for fewer than 1,000 sandboxes"
        found.append(Check("ceilings", "warn", seen, fix))
    return found or [Check("ceilings", "ok", "enough for 1,000 sandboxes")]


def descriptors(machine: Machine) -> list[Check]:
    """RLIMIT_NOFILE of the engine."""
    most = machine.open_files
    if most is None or most >= 16384:
        return [Check("open files", "ok", f"at most {'any number' if most is None else most}")]
    fix = "raise it: `ulimit -Hn 65536`, or LimitNOFILE=65536 in the service, or limits.conf(5)."
    return [Check("open files", "warn", f"the hard limit is {most}", fix)]


def capabilities(machine: Machine) -> list[Check]:
    """Root without CAP_SYS_RESOURCE cannot raise limits, which only containers do to it."""
    if machine.situation.column is not Column.ROOT:
        return []
    mask = 0
    for line in (machine.text("proc/self/status") or "").splitlines():
        if line.startswith("CapEff:"):
            mask = int(line.split()[1], 16)
    if mask >> _CAP_SYS_RESOURCE & 1:
        return [Check("capabilities", "ok", "root with CAP_SYS_RESOURCE")]
    fix = "start the container with `--cap-add SYS_RESOURCE`; without, limits can only be lowered."
    return [Check("capabilities", "warn", "root without CAP_SYS_RESOURCE", fix)]


def network_modules(machine: Machine) -> list[Check]:
    """What a network policy needs of netfilter; a sandbox with loopback alone needs none of it."""
    problem = machine.probes.get("NAT in it")
    if problem is None:
        return []
    if problem:
        fix = f"`sudo modprobe -a {' '.join(_NETWORK_MODULES)}`, or a kernel that has them."
        seen = f"NAT was refused: {problem}; sandboxes without a network do not need it"
        return [Check("netfilter", "warn", seen, fix)]
    return [Check("netfilter", "ok", "nf_tables with NAT and connection tracking")]


def data_directory(machine: Machine) -> list[Check]:
    """The file system of the data directory: templates are the lower layers of overlays."""
    if machine.data_dir is None:
        return []
    kind, point = _file_system(machine, str(machine.data_dir))
    seen = f"{machine.data_dir} is on {kind} ({point})"
    if kind.split(".")[0] in _REMOTE:
        fix = "set ATOLL_DATA_DIR to a directory on a local disk (ext4, xfs, btrfs)."
        return [Check("data directory", "fail", seen, fix)]
    if kind == "overlay":
        fix = "mount a volume there (`-v atoll-data:/var/lib/atoll`) and set ATOLL_DATA_DIR to it."
        return [Check("data directory", "warn", seen, fix)]
    return [Check("data directory", "ok", seen)]


def _file_system(machine: Machine, path: str) -> tuple[str, str]:
    best = ("unknown", "")
    for line in (machine.text("proc/self/mountinfo") or "").splitlines():
        before, _, after = line.partition(" - ")
        point = before.split(" ")[4]
        inside = point == "/" or path == point or path.startswith(point + "/")
        if inside and len(point) >= len(best[1]):
            best = (after.split(" ")[0], point)
    return best
