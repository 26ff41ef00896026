"""A sandbox for the length of one command: engine, template and sandbox, opened and closed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from atoll.cli.settings import Settings
from atoll.cli.templates import prepared
from atoll.model import Limits, Mount, Template

if TYPE_CHECKING:
    from atoll import Sandbox

DEFAULT_TEMPLATE = "code-interpreter"


@dataclass(frozen=True)
class Wanted:
    """What the caller asked of the sandbox."""

    template: str = DEFAULT_TEMPLATE
    limits: Limits = field(default_factory=Limits)
    env: dict[str, str] = field(default_factory=dict)
    mounts: tuple[Mount, ...] = ()
    network: bool = False


@asynccontextmanager
async def fresh_sandbox(
    settings: Settings, wanted: Wanted
) -> AsyncIterator[tuple[Sandbox, Template]]:
    """A new sandbox and its template; both the sandbox and its engine end with the block."""
    from atoll import Engine

    async with Engine(data_dir=settings.data_dir, launcher=settings.launcher) as engine:
        template = await prepared(engine, wanted.template)
        sandbox = await engine.create(
            template,
            env=wanted.env,
            limits=wanted.limits,
            mounts=wanted.mounts,
            network=True if wanted.network else None,
        )
        async with sandbox:
            yield sandbox, template
