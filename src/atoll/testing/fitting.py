"""Which limits can be held here, and limits that fit: a suite must run where some cannot."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from atoll.model import Limits, LimitUnavailable, Template

if TYPE_CHECKING:
    from atoll.engine import Engine

_MAY_BE_MISSING = ("memory", "cpu", "pids", "disk", "cpu_time")
_ASKED = Limits(cpu_time=60.0)
_NONE = Limits(memory=None, cpu=None, pids=None, disk=None)


async def unheld_limits(engine: Engine, template: str | Template) -> frozenset[str]:
    """The limits that `create` refuses here, found by asking for each alone."""
    unheld = set()
    for name in _MAY_BE_MISSING:
        alone = replace(_NONE, **{name: getattr(_ASKED, name)})
        try:
            await (await engine.create(template, limits=alone)).kill()
        except LimitUnavailable:
            unheld.add(name)
    return frozenset(unheld)


def fitting(limits: Limits | None, unheld: frozenset[str]) -> Limits:
    """`limits`, or the defaults, without those that cannot be held here."""
    return replace(limits or Limits(), **dict.fromkeys(unheld, None))
