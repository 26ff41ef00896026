"""Rows of the table of walls and limits, as data. `walls` says what they come to on a machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from atoll.launch.linux.walls_situation import Column


class VerdictKind(Enum):
    """What becomes of a wall or a limit."""

    KEPT = "kept"
    SUBSTITUTE = "substitute"
    REFUSED = "refused"


@dataclass(frozen=True)
class Verdict:
    """One cell.

    Attributes:
        how: what keeps it; or the substitute and why it is as tight; or why it is refused.
        fix: what to do about a refusal.
    """

    kind: VerdictKind
    how: str
    fix: str = ""

    @classmethod
    def kept(cls, how: str) -> Verdict:
        """Held as designed."""
        return cls(VerdictKind.KEPT, how)

    @classmethod
    def substitute(cls, how: str) -> Verdict:
        """Held by something else, as tightly."""
        return cls(VerdictKind.SUBSTITUTE, how)

    @classmethod
    def refused(cls, why: str, fix: str) -> Verdict:
        """Not to be had; a sandbox that asks for it is not made."""
        return cls(VerdictKind.REFUSED, why, fix)


@dataclass(frozen=True)
class Row:
    """One wall or limit, in every column."""

    name: str
    what: str
    cells: Mapping[Column, Verdict]

    def of(self, column: Column) -> Verdict:
        """The cell of a column."""
        return self.cells[column]


@dataclass(frozen=True)
class Feature:
    """Something that not every supported kernel has. It is probed; versions are never compared."""

    name: str
    since: str
    used_for: str
    without: str


def _everywhere(name: str, what: str, how: str) -> Row:
    return Row(name, what, dict.fromkeys(Column, Verdict.kept(how)))


def _row(name: str, what: str, root: Verdict, delegated: Verdict, bare: Verdict) -> Row:
    return Row(name, what, dict(zip(Column, (root, delegated, bare), strict=True)))


def _rootless(name: str, what: str, root: str, rootless: str) -> Row:
    substitute = Verdict.substitute(rootless)
    return _row(name, what, Verdict.kept(root), substitute, substitute)


WALLS: tuple[Row, ...] = (
    _everywhere(
        "own root",
        "no path leads to a file of the host",
        "a mount namespace of its own, pivot_root, the old root unmounted.",
    ),
    _rootless(
        "read-only template",
        "nobody changes the files that sandboxes share",
        "an idmapped copy of the template's mounts with locked read-only flags.",
        "a read-only mount made in a parent user namespace, which locks the flags as well; the "
        "files' owners are seen as nobody.",
    ),
    _everywhere(
        "own files",
        "what one sandbox writes, no other sees",
        "an overlay whose upper layer is a tmpfs of its own.",
    ),
    _everywhere(
        "own processes",
        "it sees and signals only its own",
        "a pid namespace of its own and a /proc that shows no other.",
    ),
    _everywhere(
        "own network",
        "no interface but loopback, no socket of the host, abstract ones included",
        "a network namespace of its own.",
    ),
    _everywhere(
        "own ipc and names",
        "no shared memory, queue or host name of others",
        "ipc, uts and cgroup namespaces of its own.",
    ),
    _everywhere(
        "own user namespace",
        "its root has no right over any namespace",
        "entered last, so that it owns none of the others.",
    ),
    _rootless(
        "own ids",
        "no account and no other sandbox has its host ids",
        "a range of 16,384 host ids that no account has.",
        "a part of the account's sub-ids, locked for as long as it is used; as tight, since the "
        "kernel gives no one else these ids. Refused for an account without sub-ids.",
    ),
    _everywhere(
        "few capabilities",
        "even its root cannot mount, trace, load or configure",
        "nine harmless capabilities for root, none in any set for user.",
    ),
    _everywhere(
        "no new privileges",
        "setuid programs and file capabilities give nothing",
        "no_new_privs, set before anything of a client runs.",
    ),
    _everywhere(
        "system call filter",
        "the kernel's riskier calls cannot be reached",
        "a seccomp allow-list after the container engines', and a second filter against mounting "
        "and namespaces.",
    ),
    _everywhere(
        "only its descriptors",
        "nothing the host has open is open inside",
        "descriptors go in by name and never come out.",
    ),
    _everywhere(
        "whole ends",
        "what a command has started ends with its timeout or its kill",
        "a mark in two hard limits, which descendants inherit and nothing inside can raise.",
    ),
    _everywhere(
        "walled zygote",
        "a template's preload is as locked in as a sandbox",
        "the same namespaces and the same filter, before its first line runs.",
    ),
    _everywhere(
        "a look from outside",
        "no client's byte reaches a sandbox with a hole",
        "the host compares filter, capabilities, ids, namespaces, root and cgroup with the plan.",
    ),
)

_NEEDS_CGROUP = (
    "start Atoll in a delegated cgroup (`systemd-run --user --scope -p Delegate=yes`), "
    "as root, or pass None."
)
_CGROUP = "cgroup v2, or v1 where the machine mounts its controllers so."
_CGROUP_2 = "cgroup v2."


def _by_cgroup(name: str, what: str, why_not: str) -> Row:
    return _row(
        name,
        what,
        Verdict.kept(_CGROUP),
        Verdict.kept(_CGROUP_2),
        Verdict.refused(why_not, _NEEDS_CGROUP),
    )


LIMITS: tuple[Row, ...] = (
    _by_cgroup(
        "memory",
        "RAM, page cache and tmpfs included, without swap",
        "nothing else counts the memory of several processes.",
    ),
    _by_cgroup(
        "cpu",
        "a quota of cores",
        "nothing else bounds a rate; priorities only share.",
    ),
    _row(
        "pids",
        "processes and threads",
        Verdict.kept(_CGROUP),
        Verdict.kept(_CGROUP_2),
        Verdict.substitute(
            "RLIMIT_NPROC of the sandbox's user namespace: since Linux 5.14 it bounds the sum over "
            "all ids inside, counted on the one id that made it, which no other sandbox has."
        ),
    ),
    _everywhere("open_files", "descriptors of a process", "RLIMIT_NOFILE."),
    _everywhere("file_size", "bytes of a file", "RLIMIT_FSIZE."),
    _everywhere(
        "disk",
        "bytes and files that the sandbox writes",
        "the size and the number of inodes of its tmpfs.",
    ),
    _everywhere("max_processes", "commands started by the API", "counted by the host."),
    _everywhere("wall", "seconds until it is killed", "the host's clock, then a kill of all."),
    _by_cgroup(
        "cpu_time",
        "CPU seconds of all its processes together, dead ones included",
        "RLIMIT_CPU counts each process by itself, and what is not waited for is never summed.",
    ),
    _everywhere("output", "bytes of a command or a cell", "counted by the host as it copies."),
)

FEATURES: tuple[Feature, ...] = (
    Feature(
        "user namespaces of ordinary users",
        "3.8; AppArmor may restrict them",
        "everything but root's own launch",
        "refused; `atoll doctor` prints the command that allows them for Atoll alone",
    ),
    Feature(
        "`mount_setattr`",
        "5.12",
        "locked read-only and idmapped mounts",
        "refused",
    ),
    Feature(
        "idmapped lower of an overlay",
        "5.19",
        "root: the template's files with the right owners",
        "refused as root: boot a newer kernel (Ubuntu 22.04: `linux-generic-hwe-22.04`), or run "
        "Atoll as an ordinary user, which needs none",
    ),
    Feature(
        "`clone3` into a cgroup",
        "5.7",
        "a sandbox is in its cgroup from its first instruction",
        "as tight: the child waits, doing nothing, until it has been moved into it",
    ),
    Feature(
        "`cgroup.kill`",
        "5.14",
        "ending every process at once",
        "as tight: forks are stopped, then each process is killed by its descriptor, until the "
        "cgroup is empty",
    ),
    Feature(
        "`user.` attributes on tmpfs",
        "6.6",
        "an overlay's record of replaced directories",
        "as tight, less complete: making a directory where the template's was removed fails",
    ),
)
