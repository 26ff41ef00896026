"""Runs attacks one after the other and judges each, the bystanders included."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import anyio

from atoll.model import AtollError
from atoll.testing.attacks.arena import Arena, open_arena
from atoll.testing.attacks.model import Attack, Verdict
from atoll.testing.attacks.registry import named

ATTACK_SECONDS = 300.0


@dataclass(frozen=True)
class Report:
    """One attack, its verdict, and how long it took in seconds."""

    attack: Attack
    verdict: Verdict
    seconds: float


async def run_attack(arena: Arena, attack: Attack) -> Report:
    """Make one attack. Held only if it got nothing and neither host nor neighbour took harm."""
    if why := _nothing_to_attack(arena, attack):
        return Report(attack, Verdict.not_made(why), 0.0)
    started = time.monotonic()
    before = await arena.harm()
    try:
        with anyio.fail_after(ATTACK_SECONDS):
            verdict = await attack.run(arena)
    except TimeoutError:
        verdict = Verdict(False, f"no verdict after {ATTACK_SECONDS:.0f} s", "")
    except (AtollError, OSError, ValueError) as error:
        trace = "".join(traceback.format_exception(error)[-3:])
        verdict = Verdict(False, f"the attack could not be made: {error!r}\n{trace}", "")
    harm = [event for event in await arena.harm() if event not in before]
    if harm:
        verdict = Verdict(False, f"harmed: {harm}; {verdict.detail}", verdict.tried)
    await arena.renew()
    return Report(attack, verdict, time.monotonic() - started)


def _nothing_to_attack(arena: Arena, attack: Attack) -> str:
    launcher = arena.sandbox.info.launcher
    if attack.launchers and launcher not in attack.launchers:
        return f"launcher {launcher} has nothing of the kind"
    if missing := attack.needs & arena.unheld:
        # Not a hole: nobody gets a sandbox here who asks for this limit.
        return f"create() refuses the limit {', '.join(sorted(missing))} on this machine"
    return ""


async def run_suite(
    *,
    names: list[str] | None = None,
    launcher: str | None = None,
    data_dir: Path | None = None,
    template: str = "base",
    interpreter: str | None = None,
    on_report: Callable[[Report], None] = lambda report: None,
) -> list[Report]:
    """Attack this machine's walls and give back every report.

    Args:
        names: attacks or sections; None: all.
        launcher: whose walls; None: the one that is chosen automatically.
        data_dir: where the engine keeps its things; None: the default.
        template: what attacker and neighbour run; it needs /usr/bin/python3.
        interpreter: a template with a heavy zygote, for attacks from contexts.
        on_report: called after each attack.

    Raises:
        KeyError: an unknown name.
        LauncherUnavailable, WallUnavailable, WallCheckFailed, UnknownTemplate, TemplateError:
            there is nothing to attack here.
    """
    attacks = named(names)
    reports = []
    async with open_arena(
        launcher=launcher, data_dir=data_dir, template=template, interpreter=interpreter
    ) as arena:
        for attack in attacks:
            report = await run_attack(arena, attack)
            reports.append(report)
            on_report(report)
    return reports
