"""Frames between the host and a context, read as what they are: bytes of a hostile program.

A frame is a 4-byte big-endian length and one JSON object. Whatever is not exactly an event of
the protocol raises GuestBroken.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from typing import Any, NoReturn

from atoll.model import ExecutionError, Frame, GuestBroken, InvalidArgument, Result

FRAME_LIMIT = 32 * 1024 * 1024
"""Largest frame that is sent or accepted, without its 4 length bytes."""

_MOST_JSON_VALUES = 2_000_000
_LARGEST_UNCOUNTED = 1 << 20
_MOST_FRAMES = 1000
_JSON_SUFFIXES = ("/json", "+json")
_HEADER = struct.Struct("!I")


@dataclass(frozen=True)
class Ready:
    """The context takes cells."""

    pid: int


@dataclass(frozen=True)
class ResultEvent:
    """A value or display of the running cell."""

    cell: int
    result: Result
    size: int


@dataclass(frozen=True)
class ErrorEvent:
    """The exception that ended the running cell."""

    cell: int
    error: ExecutionError
    size: int


@dataclass(frozen=True)
class Done:
    """The running cell is over; its output has been written."""

    cell: int
    count: int


Event = Ready | ResultEvent | ErrorEvent | Done


def encode(request: dict[str, Any]) -> bytes:
    """One frame to a context.

    Raises:
        InvalidArgument: the request does not fit into one frame.
    """
    body = json.dumps(request, separators=(",", ":")).encode("ascii")
    if len(body) > FRAME_LIMIT:
        raise InvalidArgument(
            f"the cell takes {len(body)} bytes, more than {FRAME_LIMIT}",
            hint="write data to a file in the sandbox and read it in the cell",
        )
    return _HEADER.pack(len(body)) + body


class FrameReader:
    """Puts events together from the pieces that arrive."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Event]:
        """The events that `data` completes. Raises GuestBroken."""
        self._buffer += data
        events: list[Event] = []
        while len(self._buffer) >= _HEADER.size:
            (size,) = _HEADER.unpack_from(self._buffer)
            if size > FRAME_LIMIT:
                _broken(f"announced a frame of {size} bytes")
            end = _HEADER.size + size
            if len(self._buffer) < end:
                break
            body = bytes(self._buffer[_HEADER.size : end])
            del self._buffer[:end]
            events.append(parse_event(body))
        return events


def parse_event(body: bytes) -> Event:
    """The event in one frame. Raises GuestBroken."""
    message = _load(body)
    kind = message.get("event")
    if kind == "ready":
        return Ready(_integer(message, "pid"))
    if kind == "result":
        data, main = message.get("data"), message.get("main")
        if not isinstance(data, dict) or not isinstance(main, bool):
            _broken("sent a result without data")
        if any(not isinstance(v, str) and not k.endswith(_JSON_SUFFIXES) for k, v in data.items()):
            _broken("sent a result that is not text")
        return ResultEvent(_integer(message, "id"), Result(data, main), len(body))
    if kind == "error":
        return ErrorEvent(_integer(message, "id"), _error(message), len(body))
    if kind == "done":
        return Done(_integer(message, "id"), _integer(message, "count"))
    return _broken("sent an unknown event")


def _load(body: bytes) -> dict[str, Any]:
    # Python objects take far more memory than their JSON: "[],[],..." 20 times as much.
    if len(body) > _LARGEST_UNCOUNTED:
        values = body.count(b",") + body.count(b"[") + body.count(b"{")
        if values > _MOST_JSON_VALUES:
            _broken(f"sent a frame of {values} values")
    try:
        message = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        _broken("sent a frame that is not JSON")
    if not isinstance(message, dict):
        _broken("sent a frame that is not an object")
    return message


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _error(message: dict[str, Any]) -> ExecutionError:
    frames = message.get("frames")
    if not isinstance(frames, list) or len(frames) > _MOST_FRAMES:
        _broken("sent an error without frames")
    return ExecutionError(
        name=_text(message, "name"),
        value=_text(message, "value"),
        traceback=_text(message, "traceback"),
        frames=tuple(_frame(item) for item in frames),
    )


def _frame(item: object) -> Frame:
    if not isinstance(item, dict):
        _broken("sent a frame of a traceback that is not an object")
    return Frame(_text(item, "filename"), _integer(item, "line"), _text(item, "function"))


def _integer(message: dict[str, Any], name: str) -> int:
    value = message.get(name)
    if type(value) is not int or not 0 <= value < 1 << 53:
        _broken(f"sent no number as {name!r}")
    return value


def _text(message: dict[str, Any], name: str) -> str:
    value = message.get(name)
    if not isinstance(value, str):
        _broken(f"sent no text as {name!r}")
    return value


def _broken(what: str) -> NoReturn:
    raise GuestBroken(f"a context {what}")
