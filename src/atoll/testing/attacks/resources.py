"""Attacks that use up what a sandbox is limited in: processes, memory, disk, descriptors, CPU."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any

import anyio

from atoll.model import AtollError, KilledBy, Limits
from atoll.testing.attacks.arena import ROOMY, Arena, processes_below
from atoll.testing.attacks.attempts import BOTH
from atoll.testing.attacks.model import Attack, Verdict, all_of
from atoll.testing.attacks.probes import resources
from atoll.testing.attacks.script import ProbeFailed, ProbeFunction, parse

SECTION = "resources"
_PIDS = frozenset({"pids"})
MIB = 1 << 20
TIGHT = Limits(memory="64M", cpu=1.0, pids=64, disk="32M", file_size="1G", open_files=128)
SMALL_FILES = Limits(memory="64M", pids=64, disk="64M", file_size="16M")
_PLACES = {"user": ("/home/user", "/tmp"), "root": ("/opt", "/var/tmp", "/usr/local")}


async def _bounded(
    arena: Arena, probe: ProbeFunction, user: str, limits: Limits = TIGHT, **facts: Any
) -> tuple[str, bool, str]:
    """One probe in its own sandbox: it stops short, or it is ended with a typed result."""
    async with arena.fresh(limits) as sandbox:
        try:
            result = await arena.run(probe, user=user, sandbox=sandbox, **facts)
        except AtollError as error:
            typed = sandbox.killed_by is not None
            return f"as {user}", typed, f"the sandbox ended: {error}, by {sandbox.killed_by}"
        try:
            outcome = parse(result.stdout)
        except ProbeFailed as failure:
            typed = result.killed_by is not None
            return f"as {user}", typed, f"killed by {result.killed_by}, {failure}"
        return f"as {user}", outcome.blocked, outcome.detail


def _bomb(
    name: str,
    question: str,
    probe: ProbeFunction,
    needs: frozenset[str] = frozenset(),
    **facts: Any,
) -> Attack:
    async def run(arena: Arena) -> Verdict:
        return all_of([await _bounded(arena, probe, user, **facts) for user in BOTH])

    return Attack(name, question, SECTION, run, needs=needs)


async def _wild_fork_bomb(arena: Arena) -> Verdict:
    """While it runs the neighbour answers; a kill ends it whole."""
    async with arena.fresh(ROOMY) as sandbox:
        handle = await arena.start(resources.exponential_fork_bomb, sandbox=sandbox)
        await _until_started(handle)
        await anyio.sleep(0.5)
        started = time.monotonic()
        await arena.neighbour.sandbox.commands.run(["/bin/true"])
        neighbour = time.monotonic() - started
        below = processes_below(sandbox.info.pid)
        started = time.monotonic()
        await sandbox.kill()
        killed = time.monotonic() - started
    left = [pid for pid in below if processes_below(pid)]
    held = 32 <= len(below) <= 128 and neighbour < 5 and killed < 10 and not left
    detail = (
        f"{len(below)} processes at the height, the neighbour answered in {neighbour:.2f} s, "
        f"the kill took {killed:.2f} s and left {len(left)}"
    )
    return Verdict(held, detail, "as user")


async def _until_started(handle: Any) -> None:
    with anyio.fail_after(20):
        async for _ in handle:
            if "started" in handle.stdout or "holding" in handle.stdout:
                break


async def _memory(arena: Arena) -> Verdict:
    parts = []
    for kind in resources.MEMORY_KINDS:
        user = "root" if kind == "system-v" else "user"
        _, held, detail = await _bounded(
            arena, resources.memory_bomb, user, kind=kind, goal=128 * MIB
        )
        parts.append((kind, held, detail))
    return all_of(parts)


async def _disk(arena: Arena) -> Verdict:
    parts = []
    before = os.statvfs(arena.data_dir)
    for user, places in _PLACES.items():
        for place in places:
            _, held, detail = await _bounded(
                arena, resources.fill_disk, user, directory=place, goal=128 * MIB
            )
            parts.append((f"{place} as {user}", held, detail))
    after = os.statvfs(arena.data_dir)
    gone = (before.f_bavail - after.f_bavail) * before.f_frsize
    parts.append(("the host's disk", gone < 256 * MIB, f"{gone // MIB} MiB fewer afterwards"))
    return all_of(parts)


async def _huge_file(arena: Arena) -> Verdict:
    facts: dict[str, Any] = {"directory": "/tmp", "goal": 17 * MIB}
    return all_of(
        [await _bounded(arena, resources.huge_file, user, SMALL_FILES, **facts) for user in BOTH]
    )


async def _inodes(arena: Arena) -> Verdict:
    """Half a million files in 32 MiB: refused, or at least nothing that the host runs out of."""
    parts = []
    before = os.statvfs(arena.data_dir)
    for place in ("/home/user", "/tmp", "/dev/shm"):
        _, held, detail = await _bounded(
            arena, resources.fill_inodes, "user", directory=place, goal=500_000, seconds=20
        )
        parts.append((place, held, detail))
    after = os.statvfs(arena.data_dir)
    gone = before.f_favail - after.f_favail
    parts.append(("the host's inodes", gone < 100_000, f"{gone} fewer afterwards"))
    return all_of(parts)


async def _inotify(arena: Arena) -> Verdict:
    """While the attacker holds all it can get, the host and the neighbour still get theirs."""
    parts = []
    roomy = Limits(memory="256M", pids=64, open_files=20_000)
    for user in BOTH:
        async with arena.fresh(roomy) as sandbox:
            handle = await arena.start(
                resources.inotify, sandbox=sandbox, user=user, goal=15_000, hold=30
            )
            await _until_started(handle)
            host = host_inotify(16)
            neighbour = await arena.probe(
                resources.inotify, sandbox=arena.neighbour.sandbox, goal=16
            )
            got = not neighbour.blocked
            detail = f"{handle.stdout.strip()}; host got 16: {host}, neighbour got 16: {got}"
            parts.append((f"as {user}", host and got, detail))
    return all_of(parts)


def host_inotify(count: int) -> bool:
    """True if the host still gives this process `count` inotify instances."""
    libc = ctypes.CDLL(None)
    taken = [libc.inotify_init1(os.O_CLOEXEC) for _ in range(count)]
    for descriptor in taken:
        if descriptor >= 0:
            os.close(descriptor)
    return all(descriptor >= 0 for descriptor in taken)


async def _spin(arena: Arena) -> Verdict:
    limits = Limits(memory="128M", cpu=0.5, pids=64)
    facts: dict[str, Any] = {"seconds": 2, "processes": 4, "goal": 0.8, "limit": 0.5}
    part = await _bounded(arena, resources.spin, "user", limits, **facts)
    return all_of([part])


async def _flood(arena: Arena) -> Verdict:
    """A gigabyte to each stream, valid and not: bounded, typed, and not held by the engine."""
    parts = []
    limits = Limits(memory="128M", pids=64, output="1M")
    streams: dict[str, dict[str, Any]] = {
        "stdout": {},
        "stderr": {"descriptor": 2},
        "invalid UTF-8": {"binary": True},
    }
    for name, facts in streams.items():
        async with arena.fresh(limits) as sandbox:
            before = _resident()
            result = await arena.run(resources.flood, sandbox=sandbox, timeout=30, **facts)
            grown = _resident() - before
            kept = len(result.stdout) + len(result.stderr)
            held = result.killed_by is KilledBy.OUTPUT and kept < 4 * MIB and grown < 64 * MIB
            detail = f"killed by {result.killed_by}, {kept} kept, engine grew {grown // 1024} KiB"
            parts.append((name, held, detail))
    return all_of(parts)


def _resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def _giant_value(arena: Arena) -> Verdict:
    """Values and displays of hundreds of megabytes end as an error, not in the engine's memory."""
    parts = []
    for name, code in {
        "text": "'x' * (150 << 20)",
        "nested": "a = []\nfor _ in range(100000): a = [a]\na",
        "lying repr": "class A:\n  def __repr__(self): return 'y' * (150 << 20)\nA()",
    }.items():
        async with arena.fresh(Limits(memory="512M")) as sandbox:
            before = _resident()
            try:
                execution = await sandbox.run_code(code, timeout=30.0)
                size = sum(len(str(result.data)) for result in execution.results)
                detail = f"{size} characters came, error {execution.error and execution.error.name}"
                held = size < 40 * MIB
            except AtollError as error:
                held, detail = True, f"{type(error).__name__}: {str(error)[:200]}"
            grown = (_resident() - before) // MIB
            parts.append((name, held and grown < 256, f"{detail}, engine grew {grown} MiB"))
    return all_of(parts)


def _attack(
    name: str, question: str, run: Callable[[Arena], Awaitable[Verdict]], *needs: str
) -> Attack:
    return Attack(name, question, SECTION, run, needs=frozenset(needs))


ATTACKS: tuple[Attack, ...] = (
    _bomb(
        "fork-bomb",
        "Can code have more processes than its limit?",
        resources.fork_bomb,
        _PIDS,
        goal=64,
    ),
    _attack(
        "wild-fork-bomb",
        "Does a fork bomb slow the neighbour or outlive a kill?",
        _wild_fork_bomb,
        "pids",
    ),
    _bomb(
        "thread-bomb",
        "Can code have more threads than its limit?",
        resources.thread_bomb,
        _PIDS,
        goal=64,
    ),
    _attack(
        "memory-bomb", "Can code hold more memory than its limit, of any kind?", _memory, "memory"
    ),
    _attack(
        "disk-fill", "Can code write more than its disk limit, or fill the host's?", _disk, "disk"
    ),
    _attack("inode-fill", "Can code use up inodes?", _inodes, "disk"),
    _attack("huge-file", "Can code make a file larger than its limit?", _huge_file),
    _bomb(
        "open-files",
        "Can one process open more files than its limit?",
        resources.open_files,
        goal=128,
    ),
    _attack("inotify", "Can code use up inotify instances of the host or a neighbour?", _inotify),
    _attack("cpu-spin", "Can code get more CPU than its limit?", _spin, "cpu"),
    _bomb("core-dump", "Does a crash dump core?", resources.dump_core, directory="/tmp", goal=0),
    _attack("output-flood", "Does a flood of output reach the engine's memory?", _flood),
    _attack("giant-value", "Can the value of a cell fill the engine's memory?", _giant_value),
)
