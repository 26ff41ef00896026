"""The host's end of the guest channel: one JSON object per packet, every packet treated as hostile.

The peer may send anything: packets too large, bytes that are not JSON, wrong types, replies that
nobody asked for, descriptors, or nothing at all. Each of these ends in GuestBroken, given to every
waiter and to the owner of the channel, who kills that sandbox. Nothing else is harmed.
"""

from __future__ import annotations

import array
import asyncio
import json
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from typing import Any

from atoll.engine.logs.ids import unbound
from atoll.model import AtollError, GuestBroken, SandboxDied, SandboxError, errors

PACKET = 65536
"""Largest packet, either way."""

ANSWER_SECONDS = 30.0
"""How long a guest may take for one answer before it counts as broken."""

_PACKETS_PER_TURN = 64  # then the loop's other work gets its turn, so a flood starves nobody
_MESSAGE_CHARS = 4096

_HEAD_FIELDS = frozenset({"n", "op", "fds"})  # the rest of a large request is its body

Reply = dict[str, Any]


def _by_code(root: type[AtollError]) -> dict[str, type[AtollError]]:
    found = {root.code: root}
    for kind in root.__subclasses__():
        found.update(_by_code(kind))
    return found


_ERRORS = _by_code(errors.AtollError)


def error_from_wire(body: object, sandbox_id: str) -> AtollError:
    """The error that `{"code", "message"}` from inside a sandbox stands for.

    Raises:
        GuestBroken: it is not of that shape.
    """
    if not isinstance(body, dict):
        raise GuestBroken("an error without code and message", sandbox_id=sandbox_id)
    code, message = body.get("code"), body.get("message")
    if not isinstance(code, str) or not isinstance(message, str):
        raise GuestBroken("an error without code and message", sandbox_id=sandbox_id)
    # Lone surrogates are legal in JSON and break every log and terminal later.
    clean = message[:_MESSAGE_CHARS].encode("utf-8", "replace").decode()
    return _ERRORS.get(code, SandboxError)(clean, sandbox_id=sandbox_id)


class Answer:
    """The answer to one request. Await it in one task at a time; again, if that was cancelled."""

    __slots__ = ("_after", "_done", "_error", "_ok", "_waiter", "on_error", "on_ok", "op", "timer")

    def __init__(
        self,
        op: str,
        on_ok: Callable[[Reply], None] | None,
        on_error: Callable[[AtollError], None] | None,
    ) -> None:
        self.op = op
        self.on_ok = on_ok
        self.on_error = on_error
        self.timer: asyncio.TimerHandle | None = None
        self._ok: Reply = {}
        self._error: AtollError | None = None
        self._done = False
        self._waiter: asyncio.Future[None] | None = None
        self._after: list[Callable[[], None]] = []

    def settle(self, ok: Reply, error: AtollError | None = None) -> None:
        """Give the outcome to the waiter. Only the first call counts."""
        if self._done:
            return
        self._done, self._ok, self._error = True, ok, error
        if self.timer is not None:
            self.timer.cancel()
        for act in self._after:
            act()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def then(self, act: Callable[[], None]) -> None:
        """Call `act` once the answer has been given, or now if it has."""
        if self._done:
            act()
        else:
            self._after.append(act)

    def __await__(self) -> Generator[Any, None, Reply]:
        if not self._done:
            self._waiter = asyncio.get_running_loop().create_future()
            yield from self._waiter
        if self._error is not None:
            raise self._error
        return self._ok


class GuestChannel:
    """Requests out, replies and exits in.

    Args:
        sock: non-blocking SOCK_SEQPACKET; stays the launcher's, who closes it.
        sandbox_id: for error texts.
        on_exit: called with (pid, wait status) for each exit; False if it knows no such process.
        on_broken: called once, with the reason, when the channel has ended by itself.
        former: another process spoke here before: answers and ends that it waited for still come.
    """

    def __init__(
        self,
        sock: socket.socket,
        sandbox_id: str,
        on_exit: Callable[[int, int], bool],
        on_broken: Callable[[SandboxError], None],
        *,
        former: bool = False,
    ) -> None:
        self._sock = sock
        self._id = sandbox_id
        self._on_exit = on_exit
        self._on_broken = on_broken
        self._loop = asyncio.get_running_loop()
        self._pending: dict[int, Answer] = {}
        self._unsent: deque[tuple[bytes, tuple[int, ...]]] = deque()
        # Above all numbers that a former process has used.
        self._first = self._next = time.time_ns() // 1000 if former else 1
        self._former = former
        self._ready_seen = False  # a former life may not have come to read it
        self._ended: SandboxError | None = None
        self.paused = False
        with unbound():  # what the guest says on its own belongs to nobody's request
            self._loop.add_reader(sock, self._readable)

    @property
    def ended(self) -> SandboxError | None:
        """Why the channel has ended, or None while it works."""
        return self._ended

    def close(self, reason: SandboxError) -> None:
        """Stop using the socket; requests in flight fail with `reason`. May be called twice."""
        if self._ended is not None:
            return
        self._ended = reason
        self._loop.remove_reader(self._sock)
        self._loop.remove_writer(self._sock)
        for _, fds in self._unsent:
            _close_all(fds)
        self._unsent.clear()
        pending, self._pending = self._pending, {}
        for answer in pending.values():
            answer.settle({}, reason)

    def request(
        self,
        op: str,
        params: dict[str, Any],
        fds: Sequence[int] = (),
        *,
        on_ok: Callable[[Reply], None] | None = None,
        on_error: Callable[[AtollError], None] | None = None,
        timeout: float = ANSWER_SECONDS,
    ) -> Answer:
        """Send one request; await what it returns for the `ok` object of the reply.

        Args:
            op: the request's name.
            params: its other fields.
            fds: descriptors to hand in; they are the channel's from now on, which closes them.
            on_ok: called with the reply before any later packet is looked at, so that what the
                reply creates is known before its end is reported. It may raise GuestBroken.
            on_error: called with the error of the reply, for requests that nobody awaits.
            timeout: seconds until silence counts as a broken guest.
        """
        answer = Answer(op, on_ok, on_error)
        if self._ended is not None:
            _close_all(fds)
            answer.settle({}, self._ended)
            return answer
        n, self._next = self._next, self._next + 1
        try:
            unsent = self._encode({"n": n, "op": op, **params}, tuple(fds))
        except BaseException:
            _close_all(fds)
            raise
        answer.timer = self._loop.call_later(timeout, self._silent, n, timeout)
        self._pending[n] = answer
        self._unsent.append(unsent)
        self._flush()
        return answer

    def _encode(
        self, message: dict[str, Any], fds: tuple[int, ...]
    ) -> tuple[bytes, tuple[int, ...]]:
        packet = json.dumps(message, separators=(",", ":")).encode()
        if len(packet) <= PACKET:
            return packet, fds
        head = {k: v for k, v in message.items() if k in _HEAD_FIELDS}
        body = {k: v for k, v in message.items() if k not in _HEAD_FIELDS}
        memory = os.memfd_create("request", os.MFD_CLOEXEC)
        with os.fdopen(os.dup(memory), "wb") as out:
            out.write(json.dumps(body, separators=(",", ":")).encode())
        os.lseek(memory, 0, os.SEEK_SET)
        head["body_fd"] = len(fds)
        return json.dumps(head, separators=(",", ":")).encode(), (*fds, memory)

    def _flush(self) -> None:
        while self._unsent:
            packet, fds = self._unsent[0]
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
            try:
                self._sock.sendmsg([packet], rights)
            except BlockingIOError:
                self._loop.add_writer(self._sock, self._writable)
                return
            except OSError as error:
                self.fail(SandboxDied(f"its guest is gone: {error}", sandbox_id=self._id))
                return
            self._unsent.popleft()
            _close_all(fds)

    def _writable(self) -> None:
        self._loop.remove_writer(self._sock)
        self._flush()

    def _silent(self, n: int, timeout: float) -> None:
        answer = self._pending.get(n)
        if answer is None:
            return
        if self.paused:
            answer.timer = self._loop.call_later(timeout, self._silent, n, timeout)
            return
        text = f"the guest did not answer `{answer.op}` in {timeout:g} s"
        self.fail(GuestBroken(text, sandbox_id=self._id))

    def fail(self, reason: SandboxError) -> None:
        """End the channel because of `reason` and tell its owner, who kills the sandbox."""
        if self._ended is None:
            self.close(reason)
            self._on_broken(reason)

    def fail_with(self, error: AtollError) -> None:
        """End the channel because the guest refused what it must do."""
        text = f"the guest refused what every guest does: {error.message}"
        self.fail(GuestBroken(text, sandbox_id=self._id))

    def _readable(self) -> None:
        for _ in range(_PACKETS_PER_TURN):
            if self._ended is not None:
                return
            try:
                # No room for ancillary data: the kernel drops descriptors and says so (MSG_CTRUNC).
                data, _, flags, _ = self._sock.recvmsg(PACKET)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                self.fail(SandboxDied(f"its guest is gone: {error}", sandbox_id=self._id))
                return
            if not data:
                self.fail(SandboxDied("its guest has exited", sandbox_id=self._id))
                return
            try:
                self._packet(data, flags)
            except GuestBroken as error:
                self.fail(error)
            except (ValueError, RecursionError) as error:
                reason = f"the guest sent what is not JSON: {type(error).__name__}"
                self.fail(GuestBroken(reason, sandbox_id=self._id))

    def _packet(self, data: bytes, flags: int) -> None:
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            raise self._wrong("sent a packet that is too large or carries descriptors")
        message = json.loads(data)
        if not isinstance(message, dict):
            raise self._wrong("sent what is not an object")
        if "event" in message:
            self._event(message)
            return
        n = message.get("n")
        if self._former and type(n) is int and n < self._first:
            return
        if type(n) is not int or n not in self._pending:
            raise self._wrong("answered what nobody asked")
        self._answer(n, message)

    def _answer(self, n: int, message: dict[str, Any]) -> None:
        ok, error = message.get("ok"), message.get("error")
        if (ok is None) == (error is None) or not isinstance(ok, dict | None):
            raise self._wrong("sent an answer without result")
        failure = None if ok is not None else error_from_wire(error, self._id)
        answer = self._pending[n]
        if ok is not None and answer.on_ok is not None:
            answer.on_ok(ok)
        del self._pending[n]
        answer.settle(ok or {}, failure)
        if failure is not None and answer.on_error is not None:
            answer.on_error(failure)

    def _event(self, message: dict[str, Any]) -> None:
        event = message["event"]
        if event == "ready" and not self._ready_seen:
            self._ready_seen = True
            return
        pid, status = message.get("pid"), message.get("status")
        if event != "exit" or type(pid) is not int or type(status) is not int:
            raise self._wrong("sent an event that does not exist")
        if not 0 < pid < 1 << 31 or not 0 <= status < 1 << 16:
            raise self._wrong("sent an exit that cannot be")
        if not self._on_exit(pid, status) and not self._former:
            raise self._wrong("sent the exit of a process that nobody started")

    def _wrong(self, what: str) -> GuestBroken:
        return GuestBroken(f"the guest {what}; its sandbox was killed", sandbox_id=self._id)


def _close_all(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)
