"""Attacks on what a process is born with."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from atoll.testing.attacks.arena import Arena, processes_below
from atoll.testing.attacks.attempts import inside
from atoll.testing.attacks.model import Attack, Verdict, all_of
from atoll.testing.attacks.probes import inherited
from atoll.testing.attacks.probes.kit import tokens_in

SECTION = "inherited state"


async def _guest_descriptors(arena: Arena) -> Verdict:
    """The guest and what it forked, looked at from the host: 0 to 2 and sockets, no directory."""
    parts = []
    for pid in processes_below(arena.sandbox.info.pid)[:1]:
        strange = _strange_descriptors(pid)
        detail = "; ".join(strange) or "only 0 to 2, its socket and anonymous objects"
        parts.append((f"guest {pid}", not strange, detail))
    return all_of(parts)


def _strange_descriptors(pid: int) -> list[str]:
    directory = Path(f"/proc/{pid}/fd")
    try:
        entries = sorted(directory.iterdir(), key=lambda entry: int(entry.name))
    except OSError as error:
        return [] if os.getuid() else [f"cannot look: {error}"]
    own = {_identity(Path(f"/proc/self/fd/{number}")): number for number in range(3)}
    own.pop(_identity(Path("/dev/null")), None)
    strange = []
    sockets = 0
    for entry in entries:
        name, target, mode = entry.name, str(entry.readlink()), entry.stat().st_mode
        sockets += stat.S_ISSOCK(mode)
        if _identity(entry) in own:
            strange.append(f"{name} is the engine's own {own[_identity(entry)]}, {target}")
        elif stat.S_ISDIR(mode) or stat.S_ISBLK(mode):
            strange.append(f"{name} is {target}")
        elif stat.S_ISREG(mode) and "memfd:" not in target:
            strange.append(f"{name} is the file {target}")
    if sockets > 1:
        strange.append(f"{sockets} sockets are open, not one")
    return strange


def _identity(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_dev, found.st_ino


async def _ancestors_memory(arena: Arena) -> Verdict:
    """Search what the engine started, from the host, for the token that only the engine holds."""
    parts = []
    canary = arena.host.doors["pid"]
    for pid in processes_below(os.getpid())[1:]:
        if pid in processes_below(canary):
            continue
        for name in ("cmdline", "environ"):
            found = _tokens_of(Path(f"/proc/{pid}/{name}"), arena)
            parts.append((f"{name} of {pid}", "engine" not in found, f"tokens {found}"))
        if pid in processes_below(arena.sandbox.info.pid):
            found = _memory_tokens(pid, arena)
            parts.append((f"memory of {pid}", not found & {"engine", "host"}, f"tokens {found}"))
    return all_of(parts)


def _tokens_of(path: Path, arena: Arena) -> set[str]:
    try:
        return set(tokens_in(path.read_bytes(), arena.facts))
    except OSError:
        return set()


def _memory_tokens(pid: int, arena: Arena) -> set[str]:
    found: set[str] = set()
    try:
        maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
        memory = os.open(f"/proc/{pid}/mem", os.O_RDONLY)
    except OSError:
        return found
    for line in maps:
        area, flags = line.split()[:2]
        start, end = (int(part, 16) for part in area.split("-"))
        if flags.startswith("r") and "[v" not in line and end - start < 1 << 30:
            try:
                found |= set(tokens_in(os.pread(memory, end - start, start), arena.facts))
            except OSError:
                continue
    os.close(memory)
    return found


ATTACKS: tuple[Attack, ...] = (
    inside(
        SECTION,
        "descriptors",
        "Does a process start with a descriptor that is not its own?",
        inherited.descriptors,
        context=True,
    ),
    inside(
        SECTION,
        "environment",
        "Does a process see the host's environment?",
        inherited.environment,
        context=True,
    ),
    inside(
        SECTION,
        "memory",
        "Does the memory of a process hold secrets of the engine or of a neighbour?",
        inherited.memory,
        context=True,
    ),
    inside(
        SECTION,
        "attributes",
        "Does a process inherit a terminal, a mask, a directory or a priority of the host?",
        inherited.attributes,
        context=True,
    ),
    inside(SECTION, "host-name", "Does code see the host's name?", inherited.host_name),
    Attack(
        "guest-descriptors",
        "Does the guest hold a descriptor of the host besides its socket?",
        SECTION,
        _guest_descriptors,
    ),
    Attack(
        "zygote-secrets",
        "Do arguments, environment or memory of what the engine starts hold its secrets?",
        SECTION,
        _ancestors_memory,
    ),
)
