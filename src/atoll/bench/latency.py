"""How long a create, a first cell, a hot cell and a hot command take."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from atoll.bench.peers import Peer
from atoll.bench.report import Row
from atoll.bench.samples import Step, Stopwatch, interleave, summarise

if TYPE_CHECKING:
    from atoll import Engine, Sandbox

CELL = "6*7"
ANSWER = "42"


async def checked_cell(sandbox: Sandbox) -> None:
    """One cell whose answer is looked at: a wrong answer is not a measurement."""
    execution = await sandbox.run_code(CELL)
    if execution.text != ANSWER:
        raise RuntimeError(f"the cell {CELL!r} gave {execution.text!r}, error {execution.error}")


def first_cell(engine: Engine, template: str, *, settle: float = 0.0) -> Step:
    """Milliseconds for create and the first Python cell's result; the kill is not counted."""

    async def once() -> float:
        watch = Stopwatch()
        sandbox = await engine.create(template)
        try:
            await checked_cell(sandbox)
            return watch.ms
        finally:
            await sandbox.kill()
            await anyio.sleep(settle)

    return once


def create_only(engine: Engine, template: str) -> Step:
    """Milliseconds until `create` returns."""

    async def once() -> float:
        watch = Stopwatch()
        sandbox = await engine.create(template)
        taken = watch.ms
        await sandbox.kill()
        return taken

    return once


def hot_cell(sandbox: Sandbox) -> Step:
    """Milliseconds for one more cell in a context that is already there."""

    async def once() -> float:
        watch = Stopwatch()
        await checked_cell(sandbox)
        return watch.ms

    return once


def hot_command(sandbox: Sandbox) -> Step:
    """Milliseconds for the program `true`, without a shell, in a sandbox that is already there."""

    async def once() -> float:
        watch = Stopwatch()
        result = await sandbox.commands.run(["true"])
        if result.exit_code != 0:
            raise RuntimeError(f"true exited with {result.exit_code}: {result.stderr}")
        return watch.ms

    return once


async def startup_rows(
    engine: Engine, template: str, key: str, peers: dict[str, Peer], rounds: int
) -> tuple[list[Row], list[Row]]:
    """Create with a first cell in turn with the peers, then create alone."""
    steps: dict[str, Step] = {key: first_cell(engine, template)}
    steps[f"{key}_create"] = create_only(engine, template)
    present = {name: peer for name, peer in peers.items() if peer.why_absent is None}
    steps |= {name: peer.step() for name, peer in present.items()}
    taken = await interleave(steps, rounds=rounds, warm_up=max(2, rounds // 10))
    rows = [
        Row(
            key,
            f"create `{template}` and the first Python cell, no pool",
            "ms",
            summarise(taken[key]),
            tuple(present),
        ),
        Row(f"{key}_create", f"create `{template}` alone", "ms", summarise(taken[f"{key}_create"])),
    ]
    return rows, [peer_row(name, peer, taken.get(name)) for name, peer in peers.items()]


def peer_row(name: str, peer: Peer, values: list[float] | None) -> Row:
    """A peer's figures, or why it has none."""
    if values is None:
        return Row(name, f"`{peer.label}`", "ms", skipped=peer.why_absent)
    return Row(name, f"`{peer.label}`", "ms", summarise(values))


async def pool_rows(engine: Engine, template: str, rounds: int) -> list[Row]:
    """The same from a pool that has had a moment to fill again."""
    settle = 0.05
    cell = first_cell(engine, template, settle=settle)
    taken = await interleave({"cell": cell}, rounds=rounds, warm_up=max(2, rounds // 10))
    name = f"create `{template}` from the pool and the first Python cell"
    return [Row("pool_first_cell", name, "ms", summarise(taken["cell"]))]


async def hot_rows(engine: Engine, template: str, rounds: int) -> list[Row]:
    """One more cell and one more command in a warm sandbox."""
    async with await engine.create(template) as sandbox:
        await checked_cell(sandbox)
        steps = {"cell": hot_cell(sandbox), "command": hot_command(sandbox)}
        taken = await interleave(steps, rounds=rounds, warm_up=max(5, rounds // 10))
    return [
        Row("hot_cell", "one more Python cell", "ms", summarise(taken["cell"])),
        Row("hot_command", "one more `true`", "ms", summarise(taken["command"])),
    ]
