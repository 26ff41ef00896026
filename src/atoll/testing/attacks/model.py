"""What an attack is and what it comes to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from atoll.testing.attacks.arena import Arena


@dataclass(frozen=True)
class Verdict:
    """Whether the walls held against one attack.

    Attributes:
        held: false if the attempt got what it was after, or failed for a reason of its own.
        detail: what was seen, in the words of the probe or of the host.
        tried: as whom and through what it was tried.
        made: false if there was nothing to attack, and so no attempt.
    """

    held: bool
    detail: str
    tried: str
    made: bool = True

    @classmethod
    def not_made(cls, why: str) -> Verdict:
        """There is nothing to attack here."""
        return cls(True, why, "", made=False)


@dataclass(frozen=True)
class Attack:
    """One attempt against a sandbox's walls.

    Attributes:
        name: short and unique, as `atoll attack NAME` takes it.
        question: what a reader wants to know, as a plain question whose right answer is no.
        section: the group it belongs to.
        run: makes the attempt in an arena and judges it.
        needs: limits without which there is nothing to attack; see `Limits`.
        launchers: the launchers it is for; empty: all that build walls.
    """

    name: str
    question: str
    section: str
    run: Callable[[Arena], Awaitable[Verdict]]
    launchers: tuple[str, ...] = ()
    needs: frozenset[str] = frozenset()


def all_of(parts: list[tuple[str, bool, str]]) -> Verdict:
    """One verdict for several attempts, each ``(tried, held, detail)``; broken ones come first."""
    broken = [f"{tried}: {detail}" for tried, held, detail in parts if not held]
    details = broken or [f"{tried}: {detail}" for tried, _, detail in parts]
    return Verdict(
        held=bool(parts) and not broken,
        detail=" | ".join(details),
        tried=", ".join(tried for tried, _, _ in parts),
    )
