"""`atoll shell`: an interactive terminal in a fresh sandbox."""

from __future__ import annotations

import os
import signal
import sys
import termios
import tty
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Annotated, Protocol

import anyio
import typer

from atoll.cli import settings as said
from atoll.cli import terminal
from atoll.cli.fresh import DEFAULT_TEMPLATE, Wanted, fresh_sandbox
from atoll.cli.streams import killed_line, read_all, write_all
from atoll.model import (
    CommandResult,
    InvalidArgument,
    Limits,
    ProcessNotFound,
    SandboxDied,
    TimedOut,
)

if TYPE_CHECKING:
    from atoll.engine.pty import PtyHandle

_ENDING = (ProcessNotFound, SandboxDied, ConnectionError)


def shell(
    context: typer.Context,
    command: said.Command = None,
    template: Annotated[str, typer.Option(metavar="NAME", help="Template.")] = DEFAULT_TEMPLATE,
    user: said.User = None,
    mounts: said.Mounts = None,
    env: said.Variables = None,
    memory: said.Memory = None,
    cpu: said.Cpu = None,
    pids: said.Pids = None,
    disk: said.Disk = None,
) -> None:
    """Open a shell in a fresh sandbox; the sandbox ends with it.

    The exit code is the shell's own. 125 means that Atoll could not start it.
    """

    async def work() -> int:
        if not (sys.stdin.isatty() and sys.stdout.isatty()):
            raise InvalidArgument(
                "`atoll shell` needs a terminal", hint="use `atoll run` for a program"
            )
        limits = {"memory": memory, "cpu": cpu, "pids": pids, "disk": disk, "output": said.NONE}
        wanted = Wanted(
            template=template,
            limits=said.limits_from(limits),
            env={"TERM": os.environ.get("TERM", "xterm"), **said.environment_from(env or ())},
            mounts=said.mounts_from(mounts or ()),
        )
        async with fresh_sandbox(said.settings_of(context), wanted) as (sandbox, _):
            size = os.get_terminal_size(sys.stdout.fileno())
            handle = await sandbox.pty.create(size.columns, size.lines, command or None, user=user)
            result = await attach(LocalTerminal(handle))
        return _ended(result, wanted.limits)

    raise typer.Exit(terminal.finish(work, failure=terminal.RUN_FAILURE))


def _ended(result: CommandResult, limits: Limits) -> int:
    if result.killed_by is not None:
        terminal.note(killed_line(result.killed_by, limits))
    return result.exit_code


class AttachedTerminal(Protocol):
    """A command with a terminal, wherever its owner runs."""

    def output(self) -> AsyncIterator[tuple[str, bytes]]:
        """What it shows, as (stream, bytes), until it has ended."""

    async def wait(self) -> CommandResult:
        """How it ended."""

    async def send(self, data: bytes) -> None:
        """Type."""

    async def send_signal(self, name: str) -> None:
        """Send the signal `name` to it."""

    async def resize(self, cols: int, rows: int) -> None:
        """Its terminal has another size."""


class LocalTerminal:
    """A terminal of a sandbox that this very process owns."""

    def __init__(self, handle: PtyHandle) -> None:
        self._handle = handle

    async def output(self) -> AsyncIterator[tuple[str, bytes]]:
        """What it shows."""
        async for data in self._handle:
            yield "pty", data

    async def wait(self) -> CommandResult:
        """How it ended."""
        return await self._handle.wait()

    async def send(self, data: bytes) -> None:
        """Type; the program inside reads when it wants."""
        with suppress(TimedOut):
            await self._handle.send_input(data)

    async def send_signal(self, name: str) -> None:
        """Signal it and its group."""
        await self._handle.kill(name)

    async def resize(self, cols: int, rows: int) -> None:
        """Its terminal has another size."""
        await self._handle.resize(cols, rows)


async def attach(process: AttachedTerminal) -> CommandResult:
    """Connect this terminal to `process` until that ends."""
    with raw_terminal(0):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_type, process)
            tasks.start_soon(_follow_size, process)
            async for _, data in process.output():
                await write_all(1, data)
            tasks.cancel_scope.cancel()
    return await process.wait()


@contextmanager
def raw_terminal(fd: int) -> Iterator[None]:
    """Pass every key on as it is typed; put the terminal back whatever happens."""
    before = termios.tcgetattr(fd)
    tty.setraw(fd)
    try:
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


async def _type(process: AttachedTerminal) -> None:
    with suppress(*_ENDING):
        await read_all(0, process.send)
        await process.send_signal("SIGHUP")  # this terminal is gone


async def _follow_size(process: AttachedTerminal) -> None:
    with anyio.open_signal_receiver(signal.SIGWINCH) as changes, suppress(*_ENDING):
        async for _ in changes:
            size = os.get_terminal_size(1)
            await process.resize(size.columns, size.lines)
