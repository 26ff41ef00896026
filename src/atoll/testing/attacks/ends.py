"""Attacks on the end of a command or a context: whatever it has started is to end with it."""

from __future__ import annotations

import time

import anyio

from atoll.engine import Sandbox
from atoll.model import AtollError, KilledBy
from atoll.testing.attacks.arena import Arena
from atoll.testing.attacks.attempts import BOTH, inside
from atoll.testing.attacks.model import Attack, Verdict, all_of
from atoll.testing.attacks.probes import ends
from atoll.testing.attacks.script import ProbeFunction, compose

SECTION = "ends"
_PATH = "/tmp/atoll-attack-alive"


async def _lives(sandbox: Sandbox) -> bool:
    """Whether anything still writes the time into the file."""
    first = await sandbox.files.read(_PATH, user="root")
    await anyio.sleep(0.3)
    return first != await sandbox.files.read(_PATH, user="root")


async def _timed(
    arena: Arena, probe: ProbeFunction, user: str, *, spares: bool, **facts: object
) -> tuple[bool, str]:
    """A probe that wants to outlive its timeout; with `spares`, an earlier command has to."""
    async with arena.fresh() as sandbox:
        other = await sandbox.commands.start(["sleep", "60"])
        started = time.monotonic()
        result = await arena.run(
            probe, user=user, sandbox=sandbox, timeout=1.0, path=_PATH, **facts
        )
        took = time.monotonic() - started
        lives, spared = await _lives(sandbox), other.exit_code is None
        held = result.killed_by is KilledBy.WALL and took < 10 and not lives
        detail = f"ended after {took:.1f} s by {result.killed_by}, daemon lives: {lives}"
        return held and (spared or not spares), f"{detail}, another command lives: {spared}"


async def _outlive(arena: Arena) -> Verdict:
    """The command's timeout ends it and what it left behind in other sessions."""
    parts = []
    for user in BOTH:
        for name, shed in (("", False), (" without its mark", True)):
            outcome = await _timed(arena, ends.outlive, user, spares=True, shed=shed)
            parts.append((f"as {user}{name}", *outcome))
    return all_of(parts)


async def _outrun(arena: Arena) -> Verdict:
    """Chains of forks may take the other commands of their sandbox with them, and no more."""
    parts = []
    for user in BOTH:
        for chains in (1, 6):
            outcome = await _timed(arena, ends.outrun, user, spares=False, chains=chains)
            parts.append((f"as {user} in {chains} chains", *outcome))
    return all_of(parts)


async def _stopped(arena: Arena) -> Verdict:
    async with arena.fresh() as sandbox:
        started = time.monotonic()
        result = await arena.run(ends.stop_self, sandbox=sandbox, timeout=1.0)
        took = time.monotonic() - started
        held = result.killed_by is KilledBy.WALL and took < 10
        return Verdict(held, f"ended after {took:.1f} s by {result.killed_by}", "as user")


async def _endless_cell(arena: Arena) -> Verdict:
    """A cell that ignores interrupts is killed with what it started; the sandbox goes on."""
    async with arena.fresh() as sandbox:
        started = time.monotonic()
        ended: object
        try:
            program = compose(ends.outlive, {"path": _PATH}, leave=False)
            execution = await sandbox.run_code(program, timeout=1.0)
            ended = execution.killed_by or execution.error
        except AtollError as error:
            ended = error
        took = time.monotonic() - started
        lives = await _lives(sandbox)
        after = await sandbox.run_code("6*7")
        held = took < 15 and ended is not None and not lives and after.text == "42"
        detail = f"ended after {took:.1f} s: {ended!r}, daemon lives: {lives}, then {after.text}"
        return Verdict(held, detail, "a cell")


ATTACKS: tuple[Attack, ...] = (
    Attack("outlive-timeout", "Does anything outlive its command's timeout?", SECTION, _outlive),
    Attack(
        "outrun-timeout",
        "Does what forks faster than it is found outlive its command's timeout?",
        SECTION,
        _outrun,
    ),
    Attack("stopped-process", "Does a stopped process outlive its timeout?", SECTION, _stopped),
    Attack(
        "endless-cell",
        "Does a cell that ignores interrupts, or its daemon, outlive its time?",
        SECTION,
        _endless_cell,
    ),
    inside(
        SECTION,
        "take-mark",
        "Can code pass itself off as what another command has started?",
        ends.take_mark,
        context=True,
    ),
)
