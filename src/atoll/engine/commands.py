"""`sandbox.commands`: run, start, list, connect to, feed and end commands."""

from __future__ import annotations

import inspect
import signal as signals
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, TypedDict, Unpack, overload

import anyio

from atoll.engine.output import Piece, TextPieces
from atoll.engine.processes import Process, Processes
from atoll.engine.start_request import StartRequest
from atoll.model import (
    AtollError,
    CommandResult,
    FileNotFound,
    InvalidArgument,
    KilledBy,
    ProcessNotFound,
    UnknownSignal,
)

OnText = Callable[[str], None | Awaitable[None]]
"""Gets each piece of text as it arrives; may be a coroutine function."""

INPUT_SECONDS = 30.0
"""How long a process may leave its input unread before `send_stdin` gives up."""


class Spawn(Protocol):
    """Starts a task that the engine owns."""

    def __call__(self, work: Callable[..., Awaitable[Any]], *args: Any) -> None:
        """Run `work(*args)`; errors must be its own concern."""


@dataclass(frozen=True)
class ProcessInfo:
    """One running command."""

    pid: int
    cmd: str
    args: tuple[str, ...]
    env: dict[str, str]
    cwd: str | None
    user: str | None
    tag: str | None


@dataclass(frozen=True)
class _Callbacks:
    on_stdout: OnText | None = None
    on_stderr: OnText | None = None

    def __bool__(self) -> bool:
        return self.on_stdout is not None or self.on_stderr is not None


class CommandHandle:
    """A running or ended command. Iterate it for (stream, bytes), from the start and to the end."""

    def __init__(self, processes: Processes, process: Process, callbacks: _Callbacks) -> None:
        self._processes = processes
        self._process = process
        self._callbacks = callbacks
        self._scope: anyio.CancelScope | None = None
        self._delivering = False
        self._delivered = anyio.Event()
        self._failure: Exception | None = None

    @property
    def pid(self) -> int:
        """Process id inside the sandbox."""
        return self._process.pid

    @property
    def has_callbacks(self) -> bool:
        """True if somebody wants the output piece by piece."""
        return bool(self._callbacks)

    @property
    def exit_code(self) -> int | None:
        """Exit status, or 128 + the signal's number; None while it runs."""
        return self._process.exit_code

    @property
    def stdout(self) -> str:
        """What it has written so far."""
        return self._process.output.text("stdout")

    @property
    def stderr(self) -> str:
        """What it has written so far."""
        return self._process.output.text("stderr")

    async def wait(self) -> CommandResult:
        """Wait for the end.

        Raises:
            SandboxDied, GuestBroken: the sandbox ended first, and not by one of its limits.
        """
        if self._callbacks and not self._delivering:
            await self.deliver()
        if self._callbacks:
            await self._delivered.wait()
        if self._failure is not None:
            raise self._failure
        await self._process.done.wait()
        return self._process.result()

    def deliver_in(self, spawn: Spawn) -> None:
        """Call the callbacks from a task of their own."""
        self._delivering = True
        spawn(self.deliver)

    async def deliver(self) -> None:
        """Call the callbacks until the output ends; what they raise comes out of `wait`."""
        self._delivering = True
        text = TextPieces()
        try:
            with anyio.CancelScope() as self._scope:
                async for stream, data in self._process.output.follow():
                    await self._call(stream, text.decode(stream, data))
                for stream in ("stdout", "stderr"):
                    await self._call(stream, text.rest(stream))
        except Exception as error:  # a callback's own error: any type
            self._failure = error
        finally:
            self._delivered.set()

    async def ended(self, timeout: float) -> bool:
        """Wait at most `timeout` seconds for the end; False if it runs still."""
        with anyio.move_on_after(timeout):
            await self._process.done.wait()
        return self._process.done.is_set()

    async def kill(self, signal: str | int = "SIGKILL") -> bool:
        """Signal the command and its process group; False if it has ended already.

        SIGKILL reaches all that it has started, and returns when it has ended.
        """
        number = signal_number(signal)
        return await self._processes.kill(self._process, number)

    async def stop(self, why: KilledBy) -> None:
        """SIGTERM, grace, SIGKILL; the result says `why`."""
        await self._processes.stop(self._process, why)

    async def send_stdin(self, data: str | bytes) -> None:
        """Write to its input. Raises ProcessNotFound (input closed or ended), TimedOut."""
        await send_input(self._process, data)

    async def close_stdin(self) -> None:
        """Its input ends; what was sent before still arrives."""
        if self._process.stdin is not None:
            self._process.stdin.finish()

    def disconnect(self) -> None:
        """Call no callback any more; the command runs on."""
        if self._scope is not None:
            self._scope.cancel()

    async def __aiter__(self) -> AsyncIterator[Piece]:
        async for piece in self._process.output.follow():
            yield piece

    async def _call(self, stream: str, piece: str) -> None:
        wanted = self._callbacks.on_stderr if stream == "stderr" else self._callbacks.on_stdout
        if wanted is None or not piece:
            return
        outcome = wanted(piece)
        if inspect.isawaitable(outcome):
            await outcome


class CommandOptions(TypedDict, total=False):
    """Keyword arguments of `Commands.run` and `Commands.start`.

    env: added to the sandbox's environment. user: ``user`` (the template's default), ``root`` or an
    id. cwd: the template's default if not given. on_stdout, on_stderr: get text as it arrives.
    stdin: text or bytes to feed; True leaves the input open for `send_stdin`; None: it is empty.
    tag: the caller's own name for it, shown by `list`.
    """

    env: dict[str, str] | None
    user: str | None
    cwd: str | None
    on_stdout: OnText | None
    on_stderr: OnText | None
    stdin: bool | str | bytes | None
    tag: str | None


class Commands:
    """Commands of one sandbox.

    Args:
        processes: who starts them.
        user: the template's default user.
        spawn: runs a coroutine function with arguments in the engine's task group.
    """

    def __init__(self, processes: Processes, user: str, spawn: Spawn) -> None:
        self._processes = processes
        self._user = user
        self._spawn = spawn
        self._shell: tuple[str, ...] = ("/bin/bash", "-l", "-c")

    @overload
    async def run(
        self, cmd: str | Sequence[str], *, background: Literal[False] = False,
        timeout: float | None = 60.0, **options: Unpack[CommandOptions],
    ) -> CommandResult: ...  # fmt: skip

    @overload
    async def run(
        self, cmd: str | Sequence[str], *, background: Literal[True],
        timeout: float | None = 60.0, **options: Unpack[CommandOptions],
    ) -> CommandHandle: ...  # fmt: skip

    async def run(
        self,
        cmd: str | Sequence[str],
        *,
        background: bool = False,
        timeout: float | None = 60.0,
        **options: Unpack[CommandOptions],
    ) -> CommandResult | CommandHandle:
        """Run a command to its end; with `background` start it and return its handle.

        A non-zero exit is a result, not an error. After `timeout` seconds the command gets SIGTERM,
        then all that it has started SIGKILL, and the result says ``killed_by=wall``. Cancelled, it
        leaves nothing behind.

        Args:
            cmd: a line for the login shell, or a list: program and arguments, without a shell.
            background: return at once; `timeout` then still ends the command.
            timeout: seconds, or None.
            options: see CommandOptions.

        Raises:
            FileNotFound, FileAccessDenied: no such program or cwd. UnknownUser.
            ProcessLimitReached, SandboxDied, GuestBroken.
        """
        handle = await self.start(cmd, **options)
        if background:
            if handle.has_callbacks:
                handle.deliver_in(self._spawn)
            if timeout is not None:
                self._spawn(self._end_in_time, handle, timeout)
            return handle
        return await self._finish(handle, timeout)

    async def start(
        self, cmd: str | Sequence[str], **options: Unpack[CommandOptions]
    ) -> CommandHandle:
        """Start a command that runs until it ends, is killed or its sandbox ends. As `run`."""
        unknown = options.keys() - CommandOptions.__optional_keys__
        if unknown:
            raise TypeError(f"commands have no option {', '.join(sorted(unknown))}")
        stdin = options.get("stdin")
        argv, is_line = self._arguments(cmd)
        request = StartRequest(
            argv=argv,
            env=check_environment(options.get("env")),
            user=options.get("user") or self._user,
            cwd=options.get("cwd"),
            tag=options.get("tag"),
            stdin=stdin is not None and stdin is not False,
        )
        try:
            process = await self._processes.start(request)
        except FileNotFound as error:
            if not is_line or "/bin/bash" not in str(error):
                raise
            self._shell = ("/bin/sh", "-l", "-c")
            process = await self._processes.start(replace(request, argv=(*self._shell, *argv[3:])))
        if process.stdin is not None and isinstance(stdin, str | bytes):
            process.stdin.write(stdin.encode() if isinstance(stdin, str) else stdin)
            process.stdin.finish()
        calls = _Callbacks(options.get("on_stdout"), options.get("on_stderr"))
        return CommandHandle(self._processes, process, calls)

    def list(self) -> list[ProcessInfo]:
        """The commands and terminals that run now, oldest first."""
        return [_info(process) for process in self._processes.alive()]

    def connect(
        self,
        pid: int | str,
        *,
        on_stdout: OnText | None = None,
        on_stderr: OnText | None = None,
    ) -> CommandHandle:
        """Another handle of a running command, by pid or tag; it sees all output since the start.

        Raises:
            ProcessNotFound: nothing runs by this pid or tag.
        """
        process = self._processes.find(pid)
        return CommandHandle(self._processes, process, _Callbacks(on_stdout, on_stderr))

    async def kill(self, pid: int | str, signal: str | int = "SIGKILL") -> bool:
        """Signal a command, by pid or tag, and its group; False if no such command runs."""
        number = signal_number(signal)
        try:
            handle = self.connect(pid)
        except ProcessNotFound:
            return False
        return await handle.kill(number)

    async def send_stdin(self, pid: int | str, data: str | bytes) -> None:
        """Write to a command's input. Raises ProcessNotFound (ended, or input closed), TimedOut."""
        await self.connect(pid).send_stdin(data)

    async def close_stdin(self, pid: int | str) -> None:
        """End a command's input. Raises ProcessNotFound."""
        await self.connect(pid).close_stdin()

    def _arguments(self, cmd: str | Sequence[str]) -> tuple[tuple[str, ...], bool]:
        if isinstance(cmd, str):
            argv: tuple[str, ...] = (*self._shell, cmd)
        else:
            argv = tuple(cmd)
        if not argv or not argv[0] or not all(isinstance(part, str) for part in argv):
            raise InvalidArgument(f"{cmd!r} is neither a command line nor a list of arguments")
        if any("\0" in part for part in argv):
            raise InvalidArgument("a command must not hold a NUL byte")
        return argv, isinstance(cmd, str)

    async def _finish(self, handle: CommandHandle, timeout: float | None) -> CommandResult:
        try:
            with anyio.move_on_after(timeout):
                return await handle.wait()
        except BaseException:
            await handle.kill()
            raise
        await handle.stop(KilledBy.WALL)
        return await handle.wait()

    async def _end_in_time(self, handle: CommandHandle, timeout: float) -> None:
        if not await handle.ended(timeout):
            with suppress(AtollError):  # its sandbox has died: every waiter knows
                await handle.stop(KilledBy.WALL)


def check_environment(env: dict[str, str] | None) -> dict[str, str]:
    """A copy of `env`. Raises InvalidArgument for what no process can have."""
    for name, value in (env or {}).items():
        if not isinstance(name, str) or not isinstance(value, str) or not name or "=" in name:
            raise InvalidArgument(f"{name!r} is not an environment variable with a text value")
        if "\0" in name + value:
            raise InvalidArgument(f"environment variable {name!r} holds a NUL byte")
    return dict(env or {})


def _info(process: Process) -> ProcessInfo:
    asked = process.request
    return ProcessInfo(
        pid=process.pid,
        cmd=asked.argv[0],
        args=asked.argv[1:],
        env=dict(asked.env),
        cwd=asked.cwd,
        user=asked.user,
        tag=asked.tag,
    )


def signal_number(signal: str | int) -> int:
    """The number of a signal named ``SIGTERM``, ``TERM`` or 15. Raises UnknownSignal."""
    if isinstance(signal, str):
        name = signal.upper() if signal.upper().startswith("SIG") else f"SIG{signal.upper()}"
        if name not in signals.Signals.__members__:
            raise UnknownSignal(f"no signal is called {signal!r}")
        return int(signals.Signals[name])
    if isinstance(signal, bool) or not isinstance(signal, int) or not 0 < signal < signals.NSIG:
        raise UnknownSignal(f"no signal has the number {signal!r}")
    return int(signal)


async def send_input(process: Process, data: str | bytes) -> None:
    """Write to a process's input and wait until it is taken.

    Raises:
        ProcessNotFound: it has ended, or its input is closed.
        TimedOut: it did not read.
    """
    raw = data.encode() if isinstance(data, str) else data
    sink = process.stdin
    if sink is None or sink.closed:
        raise ProcessNotFound(f"process {process.pid} takes no input: it is closed")
    sink.write(raw)
    if not await sink.drained(INPUT_SECONDS):
        raise ProcessNotFound(f"process {process.pid} closed its input")
