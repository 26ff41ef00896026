"""The checks of the walls: user namespaces, mounts, filters, ids, cgroups."""

from __future__ import annotations

import platform
import re

from atoll.launch.linux import doctor_apparmor, seccomp, walls
from atoll.launch.linux.doctor_machine import Check, Machine
from atoll.launch.linux.seccomp_lists import NUMBERS
from atoll.launch.linux.walls_table import LIMITS, WALLS, VerdictKind
from atoll.model import WallUnavailable

CONTAINER_FLAGS = {
    "Docker": "docker run --cap-add SYS_ADMIN --security-opt seccomp=unconfined --security-opt "
    "apparmor=unconfined --security-opt systempaths=unconfined --cgroupns private "
    "-v atoll-data:/var/lib/atoll -e ATOLL_DATA_DIR=/var/lib/atoll ...",
    "Podman": "podman run --cap-add SYS_ADMIN --security-opt seccomp=unconfined --security-opt "
    "unmask=ALL --cgroupns private -v atoll-data:/var/lib/atoll "
    "-e ATOLL_DATA_DIR=/var/lib/atoll ...",
    "Kubernetes": "securityContext: {procMount: Unmasked, seccompProfile: {type: Unconfined}, "
    "capabilities: {add: [SYS_ADMIN]}} with hostUsers: false in the pod, and an emptyDir for the "
    "data directory",
}
_OLDEST = (5, 15)


def kernel(machine: Machine) -> list[Check]:
    """Kernel and processor."""
    seen = f"Linux {machine.kernel} on {machine.machine}"
    if not machine.kernel:
        fix = "use a Linux machine; on macOS the launcher `seatbelt` is chosen."
        return [Check("kernel", "fail", f"{platform.system()}, not Linux", fix)]
    if machine.machine not in NUMBERS:
        return [Check("kernel", "fail", seen, "use x86_64 or aarch64.")]
    version = tuple(int(part) for part in re.findall(r"\d+", machine.kernel)[:2])
    if version < _OLDEST:
        fix = "boot Linux 5.15 or newer; an older one is untested, whatever the probes say."
        return [Check("kernel", "warn", seen, fix)]
    return [Check("kernel", "ok", seen)]


def place(machine: Machine) -> list[Check]:
    """Where it runs: on the machine, in a container, in WSL2."""
    if machine.is_wsl:
        return [_windows(machine)]
    if not machine.container:
        return [Check("place", "ok", "not in a container")]
    lacking = [name for name in _NEEDED if machine.probes.get(name)]
    seen = f"in a container ({machine.container})"
    if not lacking:
        return [Check("place", "ok", f"{seen} that lets namespaces and mounts through")]
    flags = CONTAINER_FLAGS.get(machine.container, CONTAINER_FLAGS["Docker"])
    return [Check("place", "fail", f"{seen} that refuses: {', '.join(lacking)}", _flags(flags))]


def _flags(flags: str) -> str:
    return f"start the container with what Atoll needs: `{flags}`"


def _windows(machine: Machine) -> Check:
    if "wsl2" not in machine.kernel.lower() and "standard" not in machine.kernel.lower():
        fix = "convert it: `wsl --set-version <distribution> 2` in Windows."
        return Check("place", "fail", "WSL1, which has no Linux kernel", fix)
    if machine.data_dir is not None and str(machine.data_dir).startswith("/mnt/"):
        fix = "set ATOLL_DATA_DIR to a directory on the Linux side, such as ~/.local/share/atoll."
        return Check("place", "fail", f"WSL2, with data on a Windows disk: {machine.data_dir}", fix)
    return Check("place", "ok", "WSL2")


def user_namespaces(machine: Machine) -> list[Check]:
    """Whether this account may make user namespaces, and what forbids it."""
    name = "user namespaces"
    most = machine.sysctl("user.max_user_namespaces")
    if most == 0:
        fix = (
            "`echo user.max_user_namespaces=28633 | sudo tee /etc/sysctl.d/60-atoll.conf "
            "&& sudo sysctl --system`"
        )
        return [Check(name, "fail", "user.max_user_namespaces is 0", fix)]
    if machine.sysctl("kernel.unprivileged_userns_clone") == 0 and not machine.is_root:
        fix = (
            "`echo kernel.unprivileged_userns_clone=1 | sudo tee /etc/sysctl.d/60-atoll.conf "
            "&& sudo sysctl --system`"
        )
        return [Check(name, "fail", "kernel.unprivileged_userns_clone is 0", fix)]
    problem = machine.probes.get("user namespace", "")
    if problem:
        return [Check(name, "fail", f"making one was refused: {problem}", _refused(machine))]
    return [Check(name, "ok", f"allowed, at most {most}")]


def _refused(machine: Machine) -> str:
    if machine.container:
        return _flags(CONTAINER_FLAGS.get(machine.container, CONTAINER_FLAGS["Docker"]))
    return "ask the administrator what forbids unshare(CLONE_NEWUSER) to this account."


def apparmor(machine: Machine) -> list[Check]:
    """Ubuntu's restriction: user namespaces of unconfined programs have no rights in them."""
    name = "AppArmor"
    if machine.sysctl("kernel.apparmor_restrict_unprivileged_userns") != 1:
        return [Check(name, "ok", "does not restrict user namespaces")]
    if machine.is_root:
        return [Check(name, "ok", "restricts user namespaces of ordinary users only")]
    if "mount in it" in machine.probes and not machine.probes["mount in it"]:
        return [Check(name, "ok", "restricts user namespaces, and a profile lets Atoll use them")]
    seen = "forbids user namespaces to programs without a profile"
    program = doctor_apparmor.attachment(machine.executable, machine.prefix)
    if program is None:
        fix = (
            "give Atoll an interpreter of its own (`python3 -m venv --copies .venv`), then run "
            "`atoll doctor` again for the command that installs its profile."
        )
        return [Check(name, "fail", seen, fix)]
    fix = f"install a profile for {program} alone: `{doctor_apparmor.install_command(program)}`"
    return [Check(name, "fail", seen, fix)]


_NEEDED = ("user namespace", "mount in it", "overlay in it", "proc in it")


def mounts(machine: Machine) -> list[Check]:
    """What can be mounted in a user namespace, and as root the idmapped lower."""
    found = []
    for probe, name, fix in (
        ("mount in it", "mounts", _refused(machine)),
        ("overlay in it", "overlay", "load it: `sudo modprobe overlay`; it is in Linux from 5.11."),
        ("proc in it", "/proc", _unmask(machine)),
    ):
        problem = machine.probes.get(probe)
        if problem is None:
            continue
        covered = machine.covered_proc() if probe == "proc in it" else []
        also = f"; covered: {', '.join(covered[:4])}" if covered else ""
        if problem:
            found.append(Check(name, "fail", f"refused: {problem}{also}", fix))
        else:
            found.append(Check(name, "ok", "works in a user namespace"))
    return [*found, *_attributes(machine), *_idmapped(machine)]


def _unmask(machine: Machine) -> str:
    if machine.container == "Podman":
        return "start the container with `--security-opt unmask=ALL`"
    if machine.container == "Kubernetes":
        return "set `procMount: Unmasked` in the container's securityContext"
    return "start the container with `--security-opt systempaths=unconfined`"


def _attributes(machine: Machine) -> list[Check]:
    problem = machine.probes.get("user attributes on tmpfs")
    if problem is None:
        return []
    if problem:
        fix = "Linux 6.6 has them; walls hold without, but a removed directory stays removed."
        return [Check("tmpfs attributes", "warn", f"refused: {problem}", fix)]
    return [Check("tmpfs attributes", "ok", "user attributes on tmpfs")]


def _idmapped(machine: Machine) -> list[Check]:
    problem = machine.probes.get("idmapped lower")
    if problem is None or not machine.is_root:
        return []
    if problem:
        fix = (
            "boot Linux 5.19 or newer (Ubuntu 22.04: `sudo apt-get install "
            "linux-generic-hwe-22.04`), or run Atoll as an ordinary user."
        )
        return [Check("idmapped lower", "fail", f"refused: {problem}", fix)]
    return [Check("idmapped lower", "ok", "an overlay on an idmapped mount works")]


def filters(machine: Machine) -> list[Check]:
    """libseccomp and the kernel's filters."""
    problem = machine.probes.get("seccomp", "")
    if problem:
        fix = "a kernel with CONFIG_SECCOMP_FILTER, or a container engine that lets filters nest."
        return [Check("seccomp", "fail", f"a filter was refused: {problem}", fix)]
    try:
        size = len(seccomp.outer_filter(machine.machine)) // 8
    except WallUnavailable as error:
        return [Check("seccomp", "fail", error.message, error.hint or "")]
    return [Check("seccomp", "ok", f"libseccomp built a filter of {size} instructions")]


def ids(machine: Machine) -> list[Check]:
    """The ids of sandboxes' users."""
    name = "sub-ids"
    if machine.is_root:
        return [Check(name, "ok", "not needed: root has ranges of its own")]
    if machine.situation.sub_ids:
        return [Check(name, "ok", "the account has sub-ids, and newuidmap is there")]
    row = next(row for row in WALLS if row.name == "own ids")
    what = walls.verdict(row, machine.situation)
    return [Check(name, "fail", what.how, what.fix)]


def cgroups(machine: Machine) -> list[Check]:
    """Which hierarchy there is, and each limit that cannot be held."""
    version = machine.layout.version
    seen = f"version {version}" if version else "none that this process may use"
    held = ", ".join(sorted(machine.situation.holds)) or "no limit"
    fix = "" if version else machine.layout.fix
    found = [Check("cgroups", "ok" if version else "warn", f"{seen}; holds {held}", fix)]
    for row in LIMITS:
        what = walls.verdict(row, machine.situation)
        if what.kind is VerdictKind.REFUSED:
            fix = f"{what.fix.rstrip('.')}; or ask for a sandbox with {row.name}=None"
            found.append(Check(f"limit {row.name}", "warn", f"cannot be held: {what.how}", fix))
        elif what.kind is VerdictKind.SUBSTITUTE:
            found.append(Check(f"limit {row.name}", "ok", f"held by a substitute: {what.how}"))
    return found
