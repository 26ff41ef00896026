"""Bytes between this terminal and a process in a sandbox: unchanged, bounded, both ways."""

from __future__ import annotations

import os
import signal
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import anyio
import anyio.to_thread

from atoll.model import (
    CommandResult,
    KilledBy,
    Limits,
    ProcessNotFound,
    SandboxDied,
    TimedOut,
)

if TYPE_CHECKING:
    from atoll.engine.commands import CommandHandle

CHUNK = 1 << 16
_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_FDS = {"stdout": 1, "pty": 1, "stderr": 2}


class Attached(Protocol):
    """A process that this terminal is attached to, wherever its owner runs."""

    def output(self) -> AsyncIterator[tuple[str, bytes]]:
        """What it writes, as (stream, bytes), until it has ended."""

    async def wait(self) -> CommandResult:
        """How it ended."""

    async def send(self, data: bytes) -> None:
        """Give `data` to its standard input."""

    async def close_input(self) -> None:
        """End its standard input."""

    async def send_signal(self, name: str) -> None:
        """Send the signal `name` to it."""

    async def stop(self) -> None:
        """End it: its time is over."""


class LocalProcess:
    """A command of a sandbox that this very process owns."""

    def __init__(self, handle: CommandHandle) -> None:
        self._handle = handle

    def output(self) -> AsyncIterator[tuple[str, bytes]]:
        """What it writes."""
        return aiter(self._handle)

    async def wait(self) -> CommandResult:
        """How it ended."""
        return await self._handle.wait()

    async def send(self, data: bytes) -> None:
        """Give `data` to its input; it may take its time to read."""
        with suppress(TimedOut):  # the bytes are on their way all the same
            await self._handle.send_stdin(data)

    async def close_input(self) -> None:
        """End its input."""
        await self._handle.close_stdin()

    async def send_signal(self, name: str) -> None:
        """Signal it and its group."""
        await self._handle.kill(name)

    async def stop(self) -> None:
        """Its time is over: SIGTERM, grace, SIGKILL."""
        await self._handle.stop(KilledBy.WALL)


@dataclass
class Carried:
    """How a process ended, and whether it was this side that ended it."""

    result: CommandResult
    timed_out: bool = False


async def carry(
    process: Attached, *, stdin: bool = True, quiet: bool = False, timeout: float | None = None
) -> Carried:
    """Pass stdin, output and signals between this terminal and `process` until it ends.

    Args:
        stdin: whether standard input is passed on.
        quiet: keep the output for the result instead of writing it.
        timeout: seconds after which the process is stopped.
    """
    timer = _Timer(process, timeout)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(timer.run)
        if stdin:
            tasks.start_soon(_feed, process)
        tasks.start_soon(_forward_signals, process)
        async for stream, data in process.output():
            if not quiet:
                await write_all(_FDS[stream], data)
        result = await process.wait()
        tasks.cancel_scope.cancel()
    return Carried(result, timer.rang)


class _Timer:
    def __init__(self, process: Attached, seconds: float | None) -> None:
        self._process = process
        self._seconds = seconds
        self.rang = False

    async def run(self) -> None:
        if self._seconds is None:
            return
        await anyio.sleep(self._seconds)
        self.rang = True
        with suppress(ProcessNotFound, SandboxDied, ConnectionError):
            await self._process.stop()


async def _feed(process: Attached) -> None:
    with suppress(ProcessNotFound, SandboxDied, ConnectionError):
        await read_all(0, process.send)
        await process.close_input()


async def read_all(fd: int, take: Callable[[bytes], Awaitable[None]]) -> None:
    """Give `take` what can be read from `fd` until its end."""
    pollable = not _always_ready(fd)
    while True:
        if pollable:
            await anyio.wait_readable(fd)
        try:
            data = os.read(fd, CHUNK)
        except (BlockingIOError, InterruptedError):
            continue
        except OSError:
            return  # EIO: the terminal is gone; that is an end as well
        if not data:
            return
        await take(data)


def _always_ready(fd: int) -> bool:
    # epoll_ctl(2): EPERM for files that do not support polling, such as regular ones.
    try:
        mode = os.fstat(fd).st_mode
    except OSError:
        return True
    return stat.S_ISREG(mode) or stat.S_ISDIR(mode) or _is_null(fd, mode)


def _is_null(fd: int, mode: int) -> bool:
    return stat.S_ISCHR(mode) and not os.isatty(fd)


async def write_all(fd: int, data: bytes) -> None:
    """Write all of `data`; a slow reader makes this wait, not the memory grow.

    In a thread, because the terminal is shared: it must not be made non-blocking.
    """
    view = memoryview(data)
    while view:
        written = await anyio.to_thread.run_sync(os.write, fd, view)
        view = view[written:]


async def _forward_signals(process: Attached) -> None:
    with anyio.open_signal_receiver(*_FORWARDED) as received:
        async for number in received:
            with suppress(ProcessNotFound, SandboxDied, ConnectionError):
                await process.send_signal(signal.Signals(number).name)


def killed_line(killed_by: KilledBy, limits: Limits | None) -> str:
    """What to say of a program that a limit ended; `limits` where this call has set them."""
    option = {"cpu": "cpu-time"}.get(killed_by.value, killed_by.value)
    if limits is None:
        return f"killed: the sandbox's {option} limit was reached"
    value = getattr(limits, option.replace("-", "_"))
    bound = f" of {value}" if value is not None else ""
    return f"killed: the {option} limit{bound} was reached (--{option} changes it)"
