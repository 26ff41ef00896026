"""What a process has written since its start, kept for any number of readers, early or late."""

from __future__ import annotations

import codecs
from array import array
from collections.abc import AsyncIterator

import anyio

Piece = tuple[str, bytes]
"""A stream's name (``stdout``, ``stderr`` or ``pty``) and bytes."""

_MOST_TURNS = 1 << 22
"""Changes between streams that are remembered: 32 MiB, however small the pieces are."""


class Output:
    """Bytes of up to two streams, and the order in which they arrived.

    Kept as one block a stream, so that a process that writes single bytes costs no more memory
    than one that writes large pieces.

    Args:
        first, second: the streams' names.
        limit: bytes, over both, after which nothing more is kept; None: everything is.
    """

    def __init__(self, first: str, second: str, limit: int | None) -> None:
        self._names = (first, second)
        self._limit = limit
        self._data = {first: bytearray(), second: bytearray()}
        # Lengths of turns: of the first stream above zero, of the second below.
        self._turns = array("q")
        self._finished = False
        self._changed: anyio.Event | None = None

    @property
    def finished(self) -> bool:
        """True when nothing more comes."""
        return self._finished

    def add(self, stream: str, data: bytes) -> bool:
        """Keep `data`, or as much as the limit leaves room for; False once the limit is passed."""
        fits = len(self._turns) < _MOST_TURNS
        if self._limit is not None:
            room = self._limit - sum(map(len, self._data.values()))
            fits = fits and len(data) <= room
            data = data[:room]
        if data and not self._finished:
            self._keep(stream, data)
            self._wake()
        return fits

    def finish(self) -> None:
        """Nothing more comes: readers end."""
        self._finished = True
        self._wake()

    def text(self, stream: str) -> str:
        """All of one stream, as UTF-8 text; what is not UTF-8 is replaced."""
        return self._data[stream].decode("utf-8", "replace") if stream in self._data else ""

    async def follow(self) -> AsyncIterator[Piece]:
        """Everything since the start, then each new piece until the end."""
        turn = taken = 0
        at = dict.fromkeys(self._names, 0)
        while True:
            while turn < len(self._turns):
                length = self._turns[turn]
                name = self._names[length < 0]
                start = at[name]
                at[name] = start + abs(length) - taken
                # The last turn may still grow: it is left only once another has begun.
                if turn + 1 < len(self._turns):
                    turn, taken = turn + 1, 0
                elif at[name] == start:
                    break
                else:
                    taken = abs(length)
                if at[name] > start:
                    yield name, bytes(self._data[name][start : at[name]])
            if self._finished:
                return
            if self._changed is None:
                self._changed = anyio.Event()
            await self._changed.wait()

    def _keep(self, stream: str, data: bytes) -> None:
        self._data[stream] += data
        length = len(data) if stream == self._names[0] else -len(data)
        if self._turns and (self._turns[-1] < 0) == (length < 0):
            self._turns[-1] += length
        else:
            self._turns.append(length)

    def _wake(self) -> None:
        if self._changed is not None:
            self._changed.set()
            self._changed = None


class TextPieces:
    """Turns pieces of bytes into pieces of text without ever splitting a character."""

    def __init__(self) -> None:
        make = codecs.getincrementaldecoder("utf-8")
        self._decoders = {name: make("replace") for name in ("stdout", "stderr", "pty")}

    def decode(self, stream: str, data: bytes) -> str:
        """The text that is complete now."""
        return self._decoders[stream].decode(data)

    def rest(self, stream: str) -> str:
        """What an unfinished character at the end stands for."""
        return self._decoders[stream].decode(b"", True)
