"""The log of one sandbox: what its processes wrote and what happened to it, within bounds."""

from __future__ import annotations

import codecs
import logging
import os
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import anyio

from atoll.engine.logs.ids import bound, current
from atoll.engine.logs.settings import AUDIT
from atoll.model import redacted

_ENTRY_BYTES = 400  # what an entry takes beside its text

_PIECES = 16
"""An entry of output is at most so small a part of all that is kept."""

_LEVELS = {"INFO": logging.INFO, "WARNING": logging.WARNING, "ERROR": logging.ERROR}

_log = logging.getLogger("atoll.sandbox")
_audit = logging.getLogger(AUDIT)


@dataclass(frozen=True)
class LogEntry:
    """One entry of a sandbox's log.

    Attributes:
        number: counts from 1; a gap means that entries had to make room.
        timestamp: seconds since the epoch.
        level: ``INFO``, ``WARNING`` or ``ERROR``.
        event: what happened, such as ``process.started``; empty for output.
        stream: ``stdout``, ``stderr`` or ``pty`` for output; else empty.
        message: the output's text, or the event in words.
        fields: more about an event.
        execution, request: what it belongs to.
    """

    number: int
    timestamp: float
    level: str
    event: str
    stream: str
    message: str
    pid: int | None = None
    fields: dict[str, Any] = field(default_factory=dict)
    execution: str | None = None
    request: str | None = None


class SandboxLog:
    """Keeps the newest entries of one sandbox.

    Args:
        sandbox: its id.
        size: bytes to keep, about.
        time: seconds since the epoch.
    """

    def __init__(self, sandbox: str, size: int, time: Callable[[], float]) -> None:
        self._sandbox = sandbox
        self._size = size
        self._piece = max(1, size // _PIECES)
        self._time = time
        self._entries: deque[LogEntry] = deque()
        self._costs: deque[int] = deque()
        self._taken = 0
        self._next = 1
        self._closed = False
        self._changed: anyio.Event | None = None

    def event(self, event: str, message: str, *, level: str = "INFO", **fields: Any) -> None:
        """Something has happened to the sandbox, or in it. Secrets in `fields` are hidden."""
        self._note(_log, event, message, level, fields)

    def act(self, event: str, message: str, **fields: Any) -> None:
        """Somebody has had something done: also a line of the audit log, which says who."""
        actor = current().actor or f"uid:{os.getuid()}"
        self._note(_audit, event, message, "INFO", {"actor": actor, **fields})

    def source(self, pid: int | None = None) -> OutputLog:
        """Where the output of one process goes; it belongs to the ids that hold now."""
        return OutputLog(self, pid)

    def add_output(self, stream: str, text: str, source: OutputLog) -> None:
        """A piece of output; a large one becomes several entries, as the oldest go one by one."""
        text = text[-self._size :]
        for start in range(0, len(text), self._piece):
            self._add(
                LogEntry(
                    number=self._next,
                    timestamp=self._time(),
                    level="INFO",
                    event="",
                    stream=stream,
                    message=text[start : start + self._piece],
                    pid=source.pid,
                    execution=source.execution,
                    request=source.request,
                )
            )

    def entries(self, since: int = 0) -> list[LogEntry]:
        """What is kept, oldest first, from number `since` on."""
        return [entry for entry in self._entries if entry.number >= since]

    async def read(self, *, follow: bool, since: int = 0) -> AsyncIterator[LogEntry]:
        """What is kept, and with `follow` each new entry until the sandbox has ended."""
        while True:
            for entry in self.entries(since):
                since = entry.number + 1
                yield entry
            if self._next > max(since, 1):
                continue  # more came while the reader was busy
            if self._closed or not follow:
                return
            if self._changed is None:
                self._changed = anyio.Event()
            await self._changed.wait()

    def close(self) -> None:
        """Nothing more comes: followers end."""
        self._closed = True
        self._wake()

    def _note(
        self, logger: logging.Logger, event: str, message: str, level: str, fields: dict[str, Any]
    ) -> None:
        shown = redacted(fields)
        number = _LEVELS[level]
        if logger.isEnabledFor(number):
            with bound(sandbox=self._sandbox):
                extra = {"fields": {"event": event, **shown}}
                logger.log(number, "sandbox %s: %s", self._sandbox, message, extra=extra)
        ids = current()
        self._add(
            LogEntry(
                number=self._next,
                timestamp=self._time(),
                level=level,
                event=event,
                stream="",
                message=message,
                pid=fields.get("pid"),
                fields=shown,
                execution=ids.execution,
                request=ids.request,
            )
        )

    def _add(self, entry: LogEntry) -> None:
        self._next += 1
        cost = _cost(entry)
        self._entries.append(entry)
        self._costs.append(cost)
        self._taken += cost
        while self._taken > self._size and len(self._entries) > 1:
            self._entries.popleft()
            self._taken -= self._costs.popleft()
        self._wake()

    def _wake(self) -> None:
        if self._changed is not None:
            self._changed.set()
            self._changed = None


class OutputLog:
    """Output of one process or cell on its way into a sandbox's log."""

    def __init__(self, log: SandboxLog, pid: int | None) -> None:
        ids = current()
        self.pid = pid
        self.execution = ids.execution
        self.request = ids.request
        self._log = log
        self._decoders: dict[str, codecs.IncrementalDecoder] = {}

    def add(self, stream: str, data: bytes) -> None:
        """Bytes that were written to `stream`; what is no UTF-8 is replaced."""
        decoder = self._decoders.get(stream)
        if decoder is None:
            decoder = codecs.getincrementaldecoder("utf-8")("replace")
            self._decoders[stream] = decoder
        self.add_text(stream, decoder.decode(data))

    def add_text(self, stream: str, text: str) -> None:
        """Text that was written to `stream`."""
        if text:
            self._log.add_output(stream, text, self)


def _cost(entry: LogEntry) -> int:
    fields = sum(len(str(value)) for value in entry.fields.values()) if entry.fields else 0
    return sys.getsizeof(entry.message) + fields + _ENTRY_BYTES
