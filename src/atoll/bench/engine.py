"""The engine's benchmark: every row that needs no server, in one run, beside its peers."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from atoll.bench import capacity, egress, files, latency
from atoll.bench.machine import describe
from atoll.bench.peers import bare_imports, bare_python, bubblewrap, podman
from atoll.bench.report import Report, Row

if TYPE_CHECKING:
    from atoll import Engine, Limits

SCIENCE = "code-interpreter"
BASE = "base"
_ENVIRONMENT_PYTHON = "opt/atoll/python/bin/python3"
Tell = Callable[[str], None]
Part = Callable[[], Awaitable[None]]


@dataclass(frozen=True)
class BenchOptions:
    """What to measure, and how long to take over it."""

    quick: bool = False
    alive: int = 0
    data_dir: Path | None = None
    launcher: str | None = None
    only: tuple[str, ...] = ()
    tell: Tell = field(default=lambda _line: None)

    @property
    def rounds(self) -> int:
        """How often a row of some milliseconds is measured."""
        return 20 if self.quick else 200


@dataclass
class _Findings:
    rows: list[Row] = field(default_factory=list)
    peers: list[Row] = field(default_factory=list)


def _limits() -> Limits:
    from atoll import Limits

    return Limits(memory="2G", disk="2G", file_size="1G", cpu=None)


class _Run:
    """One run over one engine; every part appends to the findings or says why it could not."""

    def __init__(self, engine: Engine, options: BenchOptions) -> None:
        self._engine = engine
        self._options = options
        self.found = _Findings()

    async def everything(self) -> None:
        """All parts in order; a part that fails costs its own rows only."""
        parts: dict[str, Part] = {
            "base_first_cell": self._base,
            "science_first_cell": self._science,
            "hot_cell": self._hot,
            "sustained": self._sustained,
            "memory_idle": self._memory,
            "file_write": self._bulk,
            "list_directory": self._list,
            "watch_delay": self._watch,
            "egress_bytes": self._egress,
            "alive_create": self._alive,
        }
        for key, part in parts.items():
            if self._options.only and key not in self._options.only:
                continue
            self._options.tell(key)
            try:
                await part()
            except Exception as error:  # reported as a failed row, never swallowed
                said = f"{error.__class__.__name__}: {error}".splitlines()[0]
                self.found.rows.append(Row(key, key.replace("_", " "), "", failed=said))

    def _add(self, rows: list[Row], peers: list[Row]) -> None:
        self.found.rows += rows
        known = {row.key for row in self.found.peers}
        self.found.peers += [row for row in peers if row.key not in known]

    async def _base(self) -> None:
        peers = {"bare_python": bare_python(), "bubblewrap": bubblewrap(), "podman": podman()}
        rounds = self._options.rounds
        self._add(*await latency.startup_rows(self._engine, BASE, "base_first_cell", peers, rounds))

    async def _science(self) -> None:
        await self._engine.templates.get(SCIENCE)
        python = _host_python(self._engine)
        peers = {"bare_python": bare_python(), "bare_imports": bare_imports(python)}
        rounds = max(10, self._options.rounds // 2)
        self._add(
            *await latency.startup_rows(self._engine, SCIENCE, "science_first_cell", peers, rounds)
        )

    async def _hot(self) -> None:
        self._add(await latency.hot_rows(self._engine, SCIENCE, self._options.rounds), [])

    async def _sustained(self) -> None:
        seconds = 3.0 if self._options.quick else 10.0
        self._add(
            [await capacity.sustained_row(self._engine, BASE, seconds=seconds, workers=4)], []
        )

    async def _memory(self) -> None:
        count = 10 if self._options.quick else 50
        self._add(await capacity.memory_rows(self._engine, SCIENCE, count), [])

    async def _alive(self) -> None:
        if not self._options.alive:
            what = "create with 1,000 alive"
            self._add([Row("alive_create", what, "ms", skipped="ask with --alive 1000")], [])
            return
        self._add(*await capacity.alive_rows(self._engine, BASE, self._options.alive))

    async def _bulk(self) -> None:
        size = (32 if self._options.quick else 256) << 20
        async with await self._engine.create(BASE, limits=_limits()) as sandbox:
            self._add(*await files.bulk_rows(sandbox, size, 5 if self._options.quick else 10))

    async def _list(self) -> None:
        async with await self._engine.create(BASE) as sandbox:
            self._add([await files.list_row(sandbox, max(10, self._options.rounds // 10))], [])

    async def _watch(self) -> None:
        async with await self._engine.create(BASE) as sandbox:
            self._add(await files.watch_rows(sandbox, 50 if self._options.quick else 500), [])

    async def _egress(self) -> None:
        size = (32 if self._options.quick else 256) << 20
        self._add(*await egress.egress_rows(size, self._options.rounds))


def _host_python(engine: Engine) -> str | None:
    """The template's environment as this machine itself can run it."""
    for info in engine.templates.list():
        if info.name == SCIENCE and info.directory is not None:
            python = info.directory / _ENVIRONMENT_PYTHON
            return str(python) if python.exists() else None
    return None


async def _pool(options: BenchOptions) -> list[Row]:
    from atoll import Engine

    async with Engine(data_dir=options.data_dir, launcher=options.launcher, pool=4) as engine:
        await engine.warm(SCIENCE)
        return await latency.pool_rows(engine, SCIENCE, max(10, options.rounds // 2))


async def run_engine(options: BenchOptions) -> Report:
    """Measure, and say what was found. Nothing is written here."""
    from atoll import Engine

    load, _, _ = os.getloadavg()
    async with Engine(data_dir=options.data_dir, launcher=options.launcher) as engine:
        run = _Run(engine, options)
        await run.everything()
        async with await engine.create(BASE) as sandbox:
            launcher = sandbox.info.launcher
    found = run.found
    if not options.only or "pool_first_cell" in options.only:
        options.tell("pool_first_cell")
        try:
            found.rows += await _pool(options)
        except Exception as error:  # a failed row, as above
            said = f"{error.__class__.__name__}: {error}".splitlines()[0]
            found.rows.append(Row("pool_first_cell", "from the pool", "ms", failed=said))
    return Report(
        taken_at=datetime.now(UTC).isoformat(timespec="seconds"),
        quick=options.quick,
        machine=describe(launcher),
        rows=tuple(found.rows),
        peers=tuple(found.peers),
        load=load,
    )
