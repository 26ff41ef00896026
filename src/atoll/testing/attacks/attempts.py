"""Turns probes into attacks: as whom and through what each is tried."""

from __future__ import annotations

from typing import Any

from atoll.testing.attacks.arena import Arena
from atoll.testing.attacks.model import Attack, Verdict, all_of
from atoll.testing.attacks.script import ProbeFunction

BOTH = ("user", "root")


def inside(
    section: str,
    name: str,
    question: str,
    probe: ProbeFunction,
    *,
    users: tuple[str, ...] = BOTH,
    context: bool = False,
    **facts: Any,
) -> Attack:
    """An attack that one probe makes and judges itself.

    Args:
        users: who tries it, one command each.
        context: try it in a Python context as well, which is a fork and not an exec.
        facts: what the probe needs to know besides the arena's facts.
    """

    async def run(arena: Arena) -> Verdict:
        parts = []
        for user in users:
            outcome = await arena.probe(probe, user=user, **facts)
            parts.append((f"as {user}", outcome.blocked, outcome.detail))
        if context:
            async with arena.context_sandbox() as sandbox:
                extra = {**facts, **CONTEXT_FACTS.get(name, {})}
                outcome = await arena.probe_in_context(probe, sandbox=sandbox, **extra)
            parts.append(("in a context", outcome.blocked, outcome.detail))
        return all_of(parts)

    return Attack(name, question, section, run)


# Descriptor 3 is a context's control socket; 4 and up may be the interpreter's own event loop.
CONTEXT_FACTS: dict[str, dict[str, Any]] = {"descriptors": {"own": ["socket", "eventpoll", "pipe"]}}
