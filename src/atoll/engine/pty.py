"""`sandbox.pty`: commands with a terminal."""

from __future__ import annotations

import fcntl
import struct
import termios
from collections.abc import AsyncIterator, Sequence

from atoll.engine.commands import check_environment, send_input, signal_number
from atoll.engine.processes import Process, Processes
from atoll.engine.start_request import StartRequest
from atoll.model import CommandResult, InvalidArgument, KilledBy, ProcessNotFound

_MOST = 1 << 15
_DEFAULT = ("/bin/bash", "-i", "-l")


class PtyHandle:
    """A running command with a terminal. Iterate it for bytes, from the start and to the end."""

    def __init__(self, processes: Processes, process: Process) -> None:
        self._processes = processes
        self._process = process

    @property
    def pid(self) -> int:
        """Process id inside the sandbox."""
        return self._process.pid

    async def send_input(self, data: str | bytes) -> None:
        """Type into the terminal. Raises ProcessNotFound, TimedOut."""
        await send_input(self._process, data)

    send_stdin = send_input

    async def resize(self, cols: int, rows: int) -> None:
        """The terminal has another size; the foreground group gets SIGWINCH."""
        check_size(cols, rows)
        terminal = self._process.sources["pty"]
        if terminal.closed:
            raise ProcessNotFound(f"process {self.pid} has ended")
        size = struct.pack("HHHH", rows, cols, 0, 0)
        fcntl.ioctl(terminal.fileno(), termios.TIOCSWINSZ, size)

    async def kill(self, signal: str | int = "SIGKILL") -> bool:
        """Signal the command and its process group; False if it has ended already."""
        return await self._processes.kill(self._process, signal_number(signal))

    async def stop(self, why: KilledBy) -> None:
        """SIGTERM, grace, SIGKILL; the result says `why`."""
        await self._processes.stop(self._process, why)

    async def wait(self) -> CommandResult:
        """Wait for the end; `stdout` of the result is all that the terminal has shown."""
        await self._process.done.wait()
        return self._process.result()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for _, data in self._process.output.follow():
            yield data


class Ptys:
    """Terminals of one sandbox.

    Args:
        processes: who starts them.
        user: the template's default user.
    """

    def __init__(self, processes: Processes, user: str) -> None:
        self._processes = processes
        self._user = user

    async def create(
        self,
        cols: int = 80,
        rows: int = 24,
        cmd: Sequence[str] | None = None,
        *,
        user: str | None = None,
        cwd: str | None = None,
        env: dict[str, str] | None = None,
        tag: str | None = None,
    ) -> PtyHandle:
        """Start a command, a login shell if none is given, on a new terminal.

        Raises:
            As `Commands.run`.
        """
        check_size(cols, rows)
        request = StartRequest(
            argv=tuple(cmd or _DEFAULT),
            env=check_environment(env),
            user=user or self._user,
            cwd=cwd,
            tag=tag,
            terminal=(rows, cols),
        )
        return PtyHandle(self._processes, await self._processes.start(request))

    def connect(self, pid: int | str) -> PtyHandle:
        """Another handle of a running one. Raises ProcessNotFound."""
        process = self._processes.find(pid)
        if process.request.terminal is None:
            raise ProcessNotFound(f"process {pid!r} has no terminal")
        return PtyHandle(self._processes, process)


def check_size(cols: int, rows: int) -> None:
    """Raise InvalidArgument for what is no size of a terminal."""
    for name, value in (("cols", cols), ("rows", rows)):
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < _MOST:
            raise InvalidArgument(f"{name} must be an int from 1 to {_MOST - 1}, not {value!r}")
