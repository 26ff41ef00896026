"""One case of the contract, and what it is run on."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio

from atoll.engine import Engine, Sandbox
from atoll.model import Limits, Template
from atoll.testing.fitting import fitting
from atoll.testing.leaks import Snapshot
from atoll.testing.waiting import eventually


@dataclass(frozen=True)
class Subject:
    """A launcher under test.

    Attributes:
        engine: a running engine over it, shared by the cases.
        make_engine: another engine over it, not started.
        data_dir: where `make_engine`'s engines keep their things.
        owners: how the names of `make_engine`'s owners begin.
        template: what sandboxes run; it has a POSIX shell and Python as `python`.
        python: path of a Python 3.8 or later inside.
        home: a directory that the default user may write to.
        unheld: limits that cannot be held here; the cases go without them.
    """

    engine: Engine
    make_engine: Callable[[], Engine]
    data_dir: Path
    owners: str = ""
    template: str | Template = "base"
    python: str = "/usr/bin/python3"
    home: str = "/home/user"
    unheld: frozenset[str] = frozenset()

    @asynccontextmanager
    async def sandbox(self, limits: Limits | None = None, **options: Any) -> AsyncIterator[Sandbox]:
        """A sandbox for one case."""
        async with await self.create(self.engine, limits, **options) as sandbox:
            yield sandbox

    async def create(self, engine: Engine, limits: Limits | None = None, **options: Any) -> Sandbox:
        """A sandbox of an engine of this subject."""
        fits = fitting(limits, self.unheld)
        return await engine.create(self.template, limits=fits, **options)

    def snapshot(self) -> Snapshot:
        """The machine as it is now, as far as this launcher can change it."""
        return Snapshot.take(self.data_dir, self.owners)

    async def settled(self) -> Snapshot:
        """The machine once nothing is being made or removed in the background any more."""
        last = self.snapshot()
        with anyio.fail_after(20):
            while True:
                await anyio.sleep(0.3)
                now = self.snapshot()
                if now == last:
                    return now
                last = now

    async def as_before(self, before: Snapshot) -> None:
        """Wait until nothing is there that was not there before, or say what it is."""
        with contextlib.suppress(TimeoutError):
            await eventually(lambda: not self.snapshot().diff(before))
        left = self.snapshot().diff(before)
        assert not left, left


@dataclass(frozen=True)
class Case:
    """One promise, as a function that raises AssertionError where it is broken.

    Attributes:
        walls: it needs isolation or limits held by the kernel, which the fake has not.
        needs: limits that the machine must be able to hold for it; see `Limits`.
    """

    name: str
    run: Callable[[Subject], Awaitable[None]]
    walls: bool = False
    needs: frozenset[str] = field(default_factory=frozenset)


async def raises(kind: type[BaseException], call: Awaitable[Any]) -> BaseException:
    """The error of this kind that `call` ends with; AssertionError if it ends otherwise."""
    try:
        got = await call
    except kind as error:
        return error
    raise AssertionError(f"{kind.__name__} was to be raised, but the call gave {got!r}")
