"""Where attacks are made: an attacker's sandbox, a neighbour's, and a victim on the host."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio

from atoll.model import AtollError, CommandResult, Limits, WallCheckFailed
from atoll.testing.attacks.canaries import HostCanary, Token, canary_program
from atoll.testing.attacks.host import facts_about_host, namespaces_of, own_addresses
from atoll.testing.attacks.probes.kit import Facts, Outcome, broke
from atoll.testing.attacks.probes.namespaces import share_with_others
from atoll.testing.attacks.script import ProbeFailed, ProbeFunction, compose, parse
from atoll.testing.fitting import fitting, unheld_limits

if TYPE_CHECKING:
    from atoll.engine import Engine, Sandbox
    from atoll.engine.commands import CommandHandle

PYTHON = "/usr/bin/python3"
ROOMY = Limits(memory="256M", cpu=1.0, pids=128, disk="256M", file_size="64M", open_files=512)


@dataclass(frozen=True)
class Neighbour:
    """Another client's sandbox, with a victim in it that records whoever touches it."""

    sandbox: Sandbox
    canary: CommandHandle
    token: Token
    doors: dict[str, Any]

    async def events(self) -> list[str]:
        """What touched its canary."""
        return (await self.sandbox.files.read("/home/user/events")).splitlines()


class Arena:
    """One engine with an attacker and a neighbour, and everything needed to see who was harmed."""

    def __init__(
        self, engine: Engine, sandbox: Sandbox, neighbour: Neighbour, host: HostCanary, facts: Facts
    ) -> None:
        self.engine = engine
        self.sandbox = sandbox
        self.neighbour = neighbour
        self.host = host
        self.facts = facts
        self.data_dir = Path(facts["data_dir"])
        self.unheld = frozenset[str](facts["unheld"])
        """The limits that cannot be held here: every sandbox of the arena goes without them."""

    async def run(
        self,
        probe: ProbeFunction,
        *,
        user: str = "user",
        sandbox: Sandbox | None = None,
        timeout: float = 60.0,
        **facts: Any,
    ) -> CommandResult:
        """Run a probe as a command and give back the command's result as it is."""
        program = compose(probe, {**copy.deepcopy(self.facts), **facts})
        chosen = sandbox or self.sandbox
        return await chosen.commands.run([PYTHON, "-I", "-c", program], user=user, timeout=timeout)

    async def probe(self, probe: ProbeFunction, **options: Any) -> Outcome:
        """Run a probe and give back its outcome; one that does not report counts as broken."""
        result = await self.run(probe, **options)
        try:
            return parse(result.stdout)
        except ProbeFailed as failure:
            ended = f"exit {result.exit_code}, killed by {result.killed_by}"
            return broke(f"the probe failed ({ended}): {failure} {result.stderr[-500:]}")

    async def probe_in_context(
        self, probe: ProbeFunction, *, sandbox: Sandbox | None = None, **facts: Any
    ) -> Outcome:
        """Run a probe as a cell: its process is a fork of the template's warmed interpreter."""
        program = compose(probe, {**copy.deepcopy(self.facts), **facts}, leave=False)
        execution = await (sandbox or self.sandbox).run_code(program)
        output = "".join(execution.logs.stdout)
        try:
            return parse(output)
        except ProbeFailed as failure:
            return broke(f"the probe failed: {failure} {execution.error}")

    async def start(
        self, probe: ProbeFunction, *, sandbox: Sandbox, user: str = "user", **facts: Any
    ) -> CommandHandle:
        """Start a probe that stays, and give back its handle."""
        program = compose(probe, {**copy.deepcopy(self.facts), **facts})
        return await sandbox.commands.start([PYTHON, "-I", "-c", program], user=user)

    @asynccontextmanager
    async def fresh(self, limits: Limits = ROOMY, **options: Any) -> AsyncIterator[Sandbox]:
        """A sandbox for an attack that uses up or ends its own."""
        fits = fitting(limits, self.unheld)
        sandbox = await self.engine.create(self.facts["template"], limits=fits, **options)
        try:
            yield sandbox
        finally:
            with anyio.CancelScope(shield=True):
                await sandbox.kill()

    @asynccontextmanager
    async def context_sandbox(self) -> AsyncIterator[Sandbox]:
        """A sandbox whose Python contexts are forks of a heavy zygote, where there is one."""
        template = self.facts["interpreter"]
        if template is None:
            yield self.sandbox
            return
        limits = fitting(None, self.unheld)
        async with await self.engine.create(template, limits=limits) as sandbox:
            yield sandbox

    async def harm(self) -> list[str]:
        """What an attack did to the host's victim or to the neighbour; empty if nothing."""
        found = [f"host canary: {event}" for event in self.host.events()]
        if not self.host.alive():
            found.append("host canary: killed or stopped")
        try:
            with anyio.fail_after(20):
                found += [f"neighbour canary: {event}" for event in await self.neighbour.events()]
                alive = await self.neighbour.sandbox.commands.run("echo alive")
            if alive.stdout != "alive\n":
                found.append(f"the neighbour answers {alive}")
            if self.neighbour.canary.exit_code is not None:
                found.append("the neighbour's canary is dead")
        except (AtollError, TimeoutError) as error:
            found.append(f"the neighbour does not answer: {error}")
        return found

    async def renew(self) -> None:
        """Give the attacker a new sandbox if the last attack ended or spoilt its own."""
        try:
            with anyio.fail_after(10):
                result = await self.sandbox.commands.run(["/bin/true"])
            if result.exit_code == 0:
                return
        except (AtollError, TimeoutError):
            await self.sandbox.kill()
        limits = fitting(ROOMY, self.unheld)
        self.sandbox = await self.engine.create(self.facts["template"], limits=limits)


@asynccontextmanager
async def open_arena(
    *,
    launcher: str | None = None,
    data_dir: Path | None = None,
    template: str = "base",
    interpreter: str | None = None,
) -> AsyncIterator[Arena]:
    """Plant the victims, start an engine beside them and build both sandboxes.

    Args:
        launcher: whose walls to attack; None: the one that is chosen automatically.
        data_dir: the engine's; None: the default one.
        template: what attacker and neighbour run.
        interpreter: a template with a heavy zygote, for attacks from a context; None: left out.

    Raises:
        WallCheckFailed: the sandbox shares a namespace with this machine.
        UnknownTemplate, TemplateError: `interpreter` cannot be had.
    """
    from atoll.engine import Engine

    engine_token = Token("engine")
    # Set before the engine starts anything, so that whatever inherits carelessly inherits it.
    os.environ["ATOLL_ATTACK_TOKEN"] = engine_token.text
    try:
        with HostCanary(own_addresses()) as host:
            async with Engine(launcher=launcher, data_dir=data_dir) as engine:
                if interpreter is not None:
                    await engine.templates.resolve(interpreter)
                facts = facts_about_host(host, str(engine.data_dir), engine_token)
                facts |= {"template": template, "interpreter": interpreter}
                unheld = await unheld_limits(engine, template)
                facts["unheld"] = sorted(unheld)
                limits = fitting(ROOMY, unheld)
                sandbox = await engine.create(template, limits=limits)
                _require_own_namespaces(sandbox)
                own = sandbox.spec.template.env
                facts["host_names"] = [name for name in facts["host_names"] if name not in own]
                neighbour = await _neighbour(engine, template, limits)
                _add_neighbour(facts, neighbour)
                arena = Arena(engine, sandbox, neighbour, host, facts)
                await _require_namespaces(arena)
                yield arena
    finally:
        del os.environ["ATOLL_ATTACK_TOKEN"]


def _require_own_namespaces(sandbox: Sandbox) -> None:
    """The host's own look, before anything is started in the sandbox."""
    seen = namespaces_of(sandbox.info.pid)
    ours = namespaces_of("self")
    shared = [name for name, inode in ours.items() if seen.get(name, inode) == inode]
    if shared:
        raise _not_apart(f"it shares {', '.join(shared)}")


async def _require_namespaces(arena: Arena) -> None:
    """Refuse to go on where an attack such as kill(-1) would meet the machine itself."""
    for user in ("user", "root"):
        outcome = await arena.probe(share_with_others, user=user)
        if not outcome.blocked:
            raise _not_apart(outcome.detail)


def _not_apart(how: str) -> WallCheckFailed:
    return WallCheckFailed(
        f"the sandbox is not apart from this machine: {how}",
        hint="attacks would harm the machine, so none was made",
    )


async def _neighbour(engine: Engine, template: str, limits: Limits) -> Neighbour:
    sandbox = await engine.create(template, limits=limits, env={"NEIGHBOUR": "1"})
    token = Token("neighbour")
    canary = await sandbox.commands.start(
        [PYTHON, "-I", "-c", canary_program(token, "/home/user"), token.text],
        env={"ATOLL_CANARY": token.text},
        stdin=True,
    )
    with anyio.fail_after(20):
        async for _ in canary:
            if "\n" in canary.stdout:
                break
    return Neighbour(sandbox, canary, token, json.loads(canary.stdout))


def _add_neighbour(facts: Facts, neighbour: Neighbour) -> None:
    doors = neighbour.doors
    facts["tokens"][neighbour.token.digest] = "neighbour"
    facts["paths"].append(doors["path"])
    facts["names"].append(Path(doors["path"]).name)
    facts["ports"].append(doors["port"])
    facts["abstract"].append(doors["abstract"])
    facts["keys"].append(doors["key"])
    facts["namespaces"]["neighbour"] = namespaces_of(neighbour.sandbox.info.pid)
    facts["pids"] += processes_below(neighbour.sandbox.info.pid)


def processes_below(pid: int) -> list[int]:
    """Host pids of a process and all its descendants, from their stat files (proc(5))."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            parents.setdefault(int(fields[1]), []).append(int(entry.name))
    alive = {child for children in parents.values() for child in children}
    found: list[int] = []
    pending = [pid] if pid in alive else []
    while pending:
        current = pending.pop()
        found.append(current)
        pending += parents.get(current, [])
    return found
