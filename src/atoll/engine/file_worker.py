"""One file operation: a process inside does it and answers through a host-made pipe."""

from __future__ import annotations

import io
import json
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from typing import Any

import anyio

from atoll.engine.channel import GuestChannel, Reply, error_from_wire
from atoll.engine.pipes import LARGE_PIPE, grow, make_pipe
from atoll.model import EntryInfo, GuestBroken, InvalidPath, SandboxError, TimedOut

ANSWER_SECONDS = 300.0
"""For the work before the first word of an answer: removing a million files takes its time."""

IDLE_SECONDS = 60.0
"""Between two pieces of data, either way."""

MAX_PATH = 4095
LARGEST_LINE = 1 << 17
_SMALL = 1 << 16


class FileWorker:
    """The host's ends of one operation. Made by `FileWorkers.run`, which also ends it."""

    def __init__(self, out: int, data: int | None, sandbox_id: str, alive: Callable[[], None]):
        self._out = out
        self._in = data
        self._id = sandbox_id
        self._require_alive = alive
        self._buffer = bytearray()
        self._size = _SMALL
        self._ended = False

    def expect(self, size: int) -> None:
        """So many bytes will come: a large pipe pays off."""
        if size > _SMALL and grow(self._out):
            self._size = LARGE_PIPE

    async def answer(self) -> dict[str, Any]:
        """The `ok` of the first line. Raises the error that the worker reports."""
        line = await self.line(ANSWER_SECONDS)
        if line is None:
            self._require_alive()
            raise SandboxError(
                "a file operation was ended before it answered",
                sandbox_id=self._id,
                hint="the sandbox may be out of memory or processes",
            )
        head = self._parse(line)
        if isinstance(head.get("ok"), dict):
            ok: dict[str, Any] = head["ok"]
            return ok
        raise error_from_wire(head.get("error"), self._id)

    async def object(self) -> dict[str, Any] | None:
        """The next line's JSON object; None at the end. Waits as long as it takes."""
        line = await self.line(None)
        return None if line is None else self._parse(line)

    async def line(self, patience: float | None) -> bytes | None:
        """The next line; None at the end. Raises TimedOut, GuestBroken (a line without end)."""
        start = 0
        while (end := self._buffer.find(b"\n", start)) < 0:
            start = len(self._buffer)
            if start > LARGEST_LINE:
                raise self.broken("sent a line without end")
            if not await self._fill(patience):
                return None
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line

    async def lines(self) -> AsyncIterator[list[bytes]]:
        """All further lines, in batches as they arrive."""
        more = True
        while more:
            end = self._buffer.rfind(b"\n")
            if end >= 0:
                batch = bytes(self._buffer[:end]).split(b"\n")
                del self._buffer[: end + 1]
                yield batch
            elif len(self._buffer) > LARGEST_LINE:
                raise self.broken("sent a line without end")
            more = await self._fill(IDLE_SECONDS)
        if self._buffer:
            raise self.broken("stopped in the middle of a line")

    async def pieces(self) -> AsyncIterator[bytes]:
        """All further bytes."""
        if self._buffer:
            first = bytes(self._buffer)
            self._buffer.clear()
            yield first
        while (piece := await self._read(IDLE_SECONDS)) is not None:
            yield piece

    async def rest(self, most: int) -> bytes | None:
        """All further bytes at once; None if there are more than `most`."""
        whole = io.BytesIO()
        whole.write(self._buffer)
        self._buffer.clear()
        # One warm buffer to read into, and BytesIO gives its own away without a copy.
        block = memoryview(bytearray(self._size))
        while whole.tell() <= most:
            try:
                count = os.readv(self._out, [block])
            except BlockingIOError:
                await self._wait(anyio.wait_readable, self._out, IDLE_SECONDS)
                continue
            if count == 0:
                return whole.getvalue()
            whole.write(block[:count])
        return None

    async def send(self, data: bytes | memoryview) -> bool:
        """Write to the worker; False if it takes no more (its answer says why)."""
        assert self._in is not None
        rest = memoryview(data)
        if len(rest) > _SMALL:
            grow(self._in)
        while rest:
            try:
                rest = rest[os.write(self._in, rest) :]
            except BlockingIOError:
                await self._wait(anyio.wait_writable, self._in, IDLE_SECONDS)
            except BrokenPipeError:
                return False
        return True

    def finish_sending(self) -> None:
        """No more data: the worker sees the end of its input."""
        if self._in is not None:
            fd, self._in = self._in, None
            os.close(fd)

    def close(self) -> None:
        """Close the host's ends."""
        self.finish_sending()
        os.close(self._out)

    def broken(self, what: str) -> GuestBroken:
        """The error for a worker that breaks the protocol."""
        return GuestBroken(f"a file worker {what}", sandbox_id=self._id)

    async def _fill(self, patience: float | None) -> bool:
        data = await self._read(patience)
        if data is None:
            return False
        self._buffer += data
        return True

    async def _read(self, patience: float | None) -> bytes | None:
        while not self._ended:
            try:
                data = os.read(self._out, self._size)
            except BlockingIOError:
                await self._wait(anyio.wait_readable, self._out, patience)
                continue
            if data:
                return data
            self._ended = True
        return None

    async def _wait(self, wait: Callable[[int], Any], fd: int, patience: float | None) -> None:
        with anyio.move_on_after(patience) as scope:
            await wait(fd)
        if scope.cancelled_caught:
            self._require_alive()
            text = f"a file operation did not go on for {patience:g} s"
            raise TimedOut(text, sandbox_id=self._id)

    def _parse(self, line: bytes) -> dict[str, Any]:
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            raise self.broken("sent what is not JSON") from None
        if not isinstance(value, dict):
            raise self.broken("sent what is not an object")
        return value


class FileWorkers:
    """Starts file workers in one sandbox.

    Args:
        channel: to the guest.
        sandbox_id: for error texts.
        user: the default user.
        require_usable: raises if the sandbox has ended or is paused.
    """

    def __init__(
        self,
        channel: GuestChannel,
        sandbox_id: str,
        user: str,
        require_usable: Callable[[], None],
    ) -> None:
        self._channel = channel
        self._id = sandbox_id
        self._user = user
        self._require_usable = require_usable

    @asynccontextmanager
    async def run(
        self, do: str, user: str | None, *, sends: bool = False, **params: Any
    ) -> AsyncIterator[FileWorker]:
        """A worker for one operation; it is ended when the block is left early."""
        self._require_usable()
        for name in ("path", "source", "target"):
            if name in params:
                check_path(params[name])
        params |= {"do": do, "user": user or self._user}
        pid: list[int] = []
        with ExitStack() as ends:
            worker, handed_in = self._worker(sends)
            ends.callback(worker.close)
            params["fds"] = {"out": 0, "in": 1} if sends else {"out": 0}
            answer = self._channel.request(
                "file", params, handed_in, on_ok=lambda ok: pid.append(self._pid(ok))
            )
            try:
                await answer
                yield worker
            except BaseException as error:
                # By callback, as a cancelled request has no pid yet: its reply brings one.
                answer.then(lambda: self._kill(pid))
                if isinstance(error, GuestBroken):
                    self._channel.fail(error)
                raise

    def _worker(self, sends: bool) -> tuple[FileWorker, list[int]]:
        out_read, out_write = make_pipe()
        os.set_blocking(out_read, False)
        if not sends:
            return FileWorker(out_read, None, self._id, self._require_usable), [out_write]
        in_read, in_write = make_pipe()
        os.set_blocking(in_write, False)
        worker = FileWorker(out_read, in_write, self._id, self._require_usable)
        return worker, [out_write, in_read]

    def _pid(self, ok: Reply) -> int:
        pid = ok.get("pid")
        if type(pid) is not int or not 0 < pid < 1 << 31:
            raise GuestBroken("the guest named an impossible pid", sandbox_id=self._id)
        return pid

    def _kill(self, pids: list[int]) -> None:
        for pid in pids:
            params = {"pid": pid, "signal": int(signal.SIGKILL), "group": False}
            self._channel.request("signal", params)


def check_path(path: str) -> None:
    """Raise InvalidPath for what can never name a file (path_resolution(7))."""
    if not isinstance(path, str) or not path:
        raise InvalidPath(f"{path!r} is not a path: it must be text and not empty")
    if "\0" in path:
        raise InvalidPath(f"the path {path!r:.200} holds a NUL byte")
    try:
        size = len(path.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError:
        raise InvalidPath(f"the path {path!r:.200} cannot be written as UTF-8") from None
    if size > MAX_PATH:
        raise InvalidPath(f"a path of {size} bytes is too long; {MAX_PATH} are the most")


_ENTRY: dict[str, type | tuple[type, ...]] = {
    "name": str,
    "path": str,
    "type": str,
    "size": int,
    "mode": int,
    "owner": str,
    "group": str,
    "modified": (int, float),
    "symlink_target": (str, type(None)),
}


def entry_from_wire(body: object) -> EntryInfo:
    """The entry that an object from inside describes. Raises GuestBroken."""
    if not isinstance(body, dict) or body.keys() != _ENTRY.keys():
        raise GuestBroken("a file worker sent an entry without the fields of one")
    for name, kinds in _ENTRY.items():
        if not isinstance(body[name], kinds) or isinstance(body[name], bool):
            raise GuestBroken(f"a file worker sent an entry with a wrong {name}")
    return EntryInfo(**body)
