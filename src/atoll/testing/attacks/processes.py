"""Attacks on other processes: the guest's, the neighbour's, the host's."""

from __future__ import annotations

import anyio

from atoll.model import AtollError
from atoll.testing.attacks.arena import Arena
from atoll.testing.attacks.attempts import BOTH, inside
from atoll.testing.attacks.model import Attack, Verdict, all_of
from atoll.testing.attacks.probes import processes

SECTION = "processes"


async def _signal_guest(arena: Arena) -> Verdict:
    parts = []
    for user in BOTH:
        async with arena.fresh() as sandbox:
            outcome = await arena.probe(processes.signal_guest, user=user, sandbox=sandbox)
            after = await sandbox.commands.run("echo alive")
            held = outcome.blocked and after.stdout == "alive\n"
            parts.append((f"as {user}", held, f"{outcome.detail}, then {after.stdout!r}"))
    return all_of(parts)


async def _kill_everything(arena: Arena) -> Verdict:
    """The sandbox may lose all its commands; its guest, and everybody else, must stay."""
    parts = []
    for user in BOTH:
        async with arena.fresh() as sandbox:
            other = await sandbox.commands.start(["sleep", "60"], user="user")
            await arena.run(processes.kill_everything, user=user, sandbox=sandbox, timeout=10)
            try:
                with anyio.fail_after(10):
                    await other.wait()
                    after = await sandbox.commands.run("echo alive")
                detail = f"the command ended with {other.exit_code}, then {after.stdout!r}"
                held = after.stdout == "alive\n"
            except (AtollError, TimeoutError) as error:
                held, detail = False, f"the guest no longer answers: {error!r}"
            parts.append((f"as {user}", held, detail))
    return all_of(parts)


async def _signal_from_sandbox(arena: Arena) -> Verdict:
    """The canaries judge: the arena asks them after every attack; here they must be asked now."""
    before = await arena.harm()
    parts = []
    for user in BOTH:
        outcome = await arena.probe(processes.signal_others, user=user)
        harm = [event for event in await arena.harm() if event not in before]
        parts.append((f"as {user}", not harm, "; ".join(harm) or outcome.detail))
    return all_of(parts)


async def _zombies(arena: Arena) -> Verdict:
    async with arena.fresh() as sandbox:
        outcome = await arena.probe(processes.leave_zombies, sandbox=sandbox, count=500)
        return Verdict(outcome.blocked, outcome.detail, "as user, 500 orphans under a limit of 128")


ATTACKS: tuple[Attack, ...] = (
    inside(
        SECTION,
        "see-others",
        "Can code see processes, arguments or environments of the host or of a neighbour?",
        processes.see_others,
        context=True,
    ),
    Attack(
        "signal-others",
        "Can code signal a process of the host or of a neighbour?",
        SECTION,
        _signal_from_sandbox,
    ),
    Attack(
        "signal-guest", "Can code kill or stop its sandbox's own guest?", SECTION, _signal_guest
    ),
    Attack(
        "kill-everything",
        "Does kill(-1) reach more than the sandbox's own commands?",
        SECTION,
        _kill_everything,
    ),
    inside(
        SECTION,
        "trace-guest",
        "Can code trace the guest, read its memory, or take its descriptors?",
        processes.trace,
        context=True,
    ),
    Attack("zombies", "Can orphans that nobody reaps use up the pids?", SECTION, _zombies),
)
