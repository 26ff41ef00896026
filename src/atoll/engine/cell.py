"""One cell on the host's side: gathers output, results and error, within bounds."""

from __future__ import annotations

import codecs
import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from atoll.engine.context_frames import ErrorEvent, ResultEvent
from atoll.model import Execution, ExecutionError, KilledBy, Logs, Result

TextCallback = Callable[[str], Awaitable[None] | None]
ResultCallback = Callable[[Result], Awaitable[None] | None]
ErrorCallback = Callable[[ExecutionError], Awaitable[None] | None]

_MOST_RESULT_BYTES = 128 << 20
_RESULT_OVERHEAD = 1024
_MERGE_AFTER = 1024


@dataclass(frozen=True)
class CellCallbacks:
    """What is told to the caller while a cell runs; each may be a plain or an async function."""

    on_stdout: TextCallback | None = None
    on_stderr: TextCallback | None = None
    on_result: ResultCallback | None = None
    on_error: ErrorCallback | None = None


class TextPieces:
    """Text of one stream in the pieces in which it came.

    Very many small pieces are joined: a list of single characters takes 60 times their size.
    """

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._joined = 0

    def feed(self, data: bytes, final: bool = False) -> str:
        """Add bytes and return the text that they complete."""
        text = self._decoder.decode(data, final)
        if text:
            self.pieces.append(text)
            if len(self.pieces) - self._joined > _MERGE_AFTER:
                self.pieces[self._joined :] = ["".join(self.pieces[self._joined :])]
                self._joined = len(self.pieces)
        return text


class Cell:
    """What one cell has done so far.

    Attributes:
        over_limit: the cell has written more than it may; what follows is thrown away.
    """

    def __init__(self, callbacks: CellCallbacks, output_limit: int | None) -> None:
        self.over_limit = False
        self.error: ExecutionError | None = None
        self._callbacks = callbacks
        self._output_left = output_limit
        self._result_left = _MOST_RESULT_BYTES
        self._results: list[Result] = []
        self._texts = {"stdout": TextPieces(), "stderr": TextPieces()}

    async def take_output(self, stream: str, data: bytes) -> None:
        """Bytes that the cell wrote to `stream`."""
        if self._output_left is not None:
            if len(data) > self._output_left:
                data = data[: self._output_left]
                self.over_limit = True
            self._output_left -= len(data)
        if data:
            await self._tell_text(stream, self._texts[stream].feed(data))

    async def take_event(self, event: ResultEvent | ErrorEvent) -> None:
        """A result or an error of the cell; of several errors the last counts."""
        self._result_left -= event.size + _RESULT_OVERHEAD
        if self._result_left < 0:
            self.over_limit = True
            return
        if isinstance(event, ResultEvent):
            self._results.append(event.result)
            await _tell(self._callbacks.on_result, event.result)
        else:
            self.error = event.error
            await _tell(self._callbacks.on_error, event.error)

    async def fail(self, error: ExecutionError) -> None:
        """Our own word on why the cell ended, over what the context says."""
        self.error = error
        await _tell(self._callbacks.on_error, error)

    async def finish(self) -> None:
        """No more output: what is left of a broken character becomes a replacement sign."""
        for stream, text in self._texts.items():
            await self._tell_text(stream, text.feed(b"", final=True))

    def execution(
        self, count: int | None, killed_by: KilledBy | None, duration: float
    ) -> Execution:
        """The record of the cell."""
        logs = Logs(self._texts["stdout"].pieces, self._texts["stderr"].pieces)
        return Execution(self._results, logs, self.error, count, killed_by, duration)

    async def _tell_text(self, stream: str, text: str) -> None:
        callbacks = self._callbacks
        if text:
            await _tell(callbacks.on_stdout if stream == "stdout" else callbacks.on_stderr, text)


async def _tell(callback: Callable[[Any], Awaitable[None] | None] | None, value: Any) -> None:
    if callback is None:
        return
    waiting = callback(value)
    if inspect.isawaitable(waiting):
        await waiting
