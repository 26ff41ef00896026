"""`atoll ps`, `exec` and `kill`: sandboxes of this user, whichever program holds them."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from atoll.cli import settings as said
from atoll.cli import terminal
from atoll.cli.settings import Settings, settings_of
from atoll.cli.shell import attach
from atoll.cli.streams import carry, killed_line
from atoll.model import FileAccessDenied, FileNotFound, InvalidArgument, KilledBy

if TYPE_CHECKING:
    from atoll.engine.owner_client import Owned, Owners

_SHELL = ("/bin/bash", "-i", "-l")
Sandbox = Annotated[str, typer.Argument(metavar="ID", help="Sandbox, or how its id begins.")]


def owners_of(settings: Settings) -> Owners:
    """The owners that the commands ask."""
    from atoll.engine import default_data_dir
    from atoll.engine.owner_client import Owners

    return Owners(settings.data_dir or default_data_dir())


def ps(context: typer.Context, as_json: said.AsJson = False) -> None:
    """Show the sandboxes of this user that run, whichever program made them."""

    async def work() -> int:
        found = await owners_of(settings_of(context)).ps()
        if as_json:
            terminal.print_json([_as_object(owned) for owned in found])
            return 0
        heads = ["id", "template", "state", "age", "lease", "launcher", "commands", "owner"]
        terminal.print_table(heads, [_row(owned, time.time()) for owned in found])
        return 0

    raise typer.Exit(terminal.finish(work, as_json=as_json))


def _as_object(owned: Owned) -> dict[str, object]:
    return {
        **terminal.plain(owned.info),
        "owner": owned.owner,
        "owner_pid": owned.owner_pid,
        "processes": terminal.plain(owned.processes),
    }


def _row(owned: Owned, now: float) -> list[str]:
    info = owned.info
    lease = "-" if info.expires_at is None else age(info.expires_at - now)
    return [
        info.id,
        info.template,
        info.state.value,
        age(now - info.started_at),
        lease,
        info.launcher,
        str(len(owned.processes)),
        f"{owned.owner} ({owned.owner_pid})",
    ]


def age(seconds: float) -> str:
    """A length of time in its two largest units."""
    left = max(0, int(seconds))
    parts: list[str] = []
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count or (unit == "s" and not parts):
            parts.append(f"{count}{unit}")
    return "".join(parts[:2])


def kill(context: typer.Context, sandbox: Sandbox, as_json: said.AsJson = False) -> None:
    """End a sandbox and everything in it."""

    async def work() -> int:
        killed = await owners_of(settings_of(context)).kill(sandbox)
        if as_json:
            terminal.print_json({"killed": killed})
        elif not killed:
            terminal.note(f"{sandbox} had ended already")
        return 0

    raise typer.Exit(terminal.finish(work, as_json=as_json))


def exec_command(
    context: typer.Context,
    sandbox: Sandbox,
    command: said.Command = None,
    tty: Annotated[
        bool, typer.Option("--tty", "-t", help="Give it a terminal. A login shell has one.")
    ] = False,
    user: said.User = None,
    cwd: said.Cwd = None,
    env: said.Variables = None,
    timeout: Annotated[
        str | None, typer.Option(metavar="SECONDS", help="End the command then; exit code 124.")
    ] = None,
    as_json: said.ResultAsJson = False,
) -> None:
    """Run a command in a sandbox that is there already.

    Standard input, output, signals and the exit code pass through unchanged, as with `atoll run`.
    """

    async def work() -> int:
        call = _Call(
            sandbox=sandbox,
            command=tuple(command or _SHELL),
            tty=tty or not command,
            user=user,
            cwd=cwd,
            env=said.environment_from(env or ()),
            timeout=said.seconds_from("--timeout", timeout),
            as_json=as_json,
        )
        try:
            return await call.run(owners_of(settings_of(context)))
        except FileNotFound as error:
            terminal.report(error, as_json=as_json)
            return terminal.NOT_FOUND
        except FileAccessDenied as error:
            terminal.report(error, as_json=as_json)
            return terminal.NOT_EXECUTABLE

    raise typer.Exit(terminal.finish(work, as_json=as_json, failure=terminal.RUN_FAILURE))


@dataclass(frozen=True)
class _Call:
    """One `atoll exec`."""

    sandbox: str
    command: tuple[str, ...]
    tty: bool
    user: str | None
    cwd: str | None
    env: dict[str, str]
    timeout: float | None
    as_json: bool

    async def run(self, owners: Owners) -> int:
        """Run it and return the exit code."""
        return await (self._on_terminal(owners) if self.tty else self._with_pipes(owners))

    async def _on_terminal(self, owners: Owners) -> int:
        if not (sys.stdin.isatty() and sys.stdout.isatty()):
            raise InvalidArgument("there is no terminal here", hint="leave out --tty and say CMD")
        columns, rows = os.get_terminal_size(sys.stdout.fileno())
        async with owners.exec(
            self.sandbox,
            self.command,
            terminal=(rows, columns),
            user=self.user,
            cwd=self.cwd,
            env={"TERM": os.environ.get("TERM", "xterm"), **self.env},
        ) as process:
            result = await attach(process)
        return result.exit_code

    async def _with_pipes(self, owners: Owners) -> int:
        async with owners.exec(
            self.sandbox, self.command, user=self.user, cwd=self.cwd, env=self.env
        ) as process:
            carried = await carry(process, quiet=self.as_json, timeout=self.timeout)
        result = carried.result
        if self.as_json:
            terminal.print_json(result)
        elif carried.timed_out:
            terminal.note(f"killed: --timeout {self.timeout:g} is over")
        elif result.killed_by is not None:
            terminal.note(killed_line(result.killed_by, None))
        timed_out = carried.timed_out or result.killed_by is KilledBy.WALL
        return terminal.TIMED_OUT if timed_out else result.exit_code
