"""Fields of a request, checked: a wrong type is a refusal, never a crash of the guest."""

from __future__ import annotations

from atoll.guest.refusal import Refused, invalid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Request = dict[str, Any]

MAX_PATH = 4095
_MAX_TARGET = 63


def text(request: Request, name: str) -> str:
    """A required text."""
    value = request.get(name)
    if not isinstance(value, str):
        raise invalid(f"{name!r} must be text, not {value!r:.80}")
    return value


def optional_text(request: Request, name: str) -> str | None:
    """A text, or None if it is null or not there."""
    return None if request.get(name) is None else text(request, name)


def number(request: Request, name: str, default: int | None = None, high: int = 1 << 62) -> int:
    """An int from 0 to `high`; required if there is no default."""
    value = request.get(name)
    if value is None and default is not None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= high:
        raise invalid(f"{name!r} must be an int from 0 to {high}, not {value!r:.80}")
    return value


def flag(request: Request, name: str) -> bool:
    """A bool, false by default."""
    value = request.get(name, False)
    if not isinstance(value, bool):
        raise invalid(f"{name!r} must be true or false, not {value!r:.80}")
    return value


def encoded(value: str, what: str) -> bytes:
    """`value` as the kernel takes it (surrogates stand for bytes that are not UTF-8)."""
    try:
        data = value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise invalid(f"{what} holds a code point that has no bytes") from None
    if b"\0" in data:
        raise invalid(f"{what} holds a NUL byte")
    return data


def decoded(value: bytes) -> str:
    """The inverse of `encoded`."""
    return value.decode("utf-8", "surrogateescape")


def path(value: str, home: str) -> bytes:
    """An absolute path: a relative one and `~` start at `home`.

    Raises:
        Refused: invalid_path, for an empty one, one with a NUL byte, or one of over 4095 bytes.
    """
    if not value:
        raise Refused("invalid_path", "a path must not be empty")
    if value == "~" or value.startswith("~/"):
        value = home + value[1:]
    elif not value.startswith("/"):
        value = f"{home}/{value}"
    try:
        data = encoded(value, "path")
    except Refused as refused:
        raise Refused("invalid_path", f"{value!r:.200}: {refused.message}") from None
    if len(data) > MAX_PATH:
        raise Refused("invalid_path", f"a path of {len(data)} bytes; at most {MAX_PATH} work")
    return data


def argv(request: Request) -> list[bytes]:
    """A command: at least one text, the first not empty."""
    value = request.get("argv")
    if not isinstance(value, list) or not value or not all(isinstance(a, str) for a in value):
        raise invalid("'argv' must be a list of texts that is not empty")
    if not value[0]:
        raise invalid("argv[0] must not be empty")
    return [encoded(argument, "an argument") for argument in value]


def texts(request: Request, name: str, default: list[str]) -> list[bytes]:
    """A list of texts; `default` if it is null or not there."""
    value = request.get(name)
    value = default if value is None else value
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise invalid(f"{name!r} must be a list of texts")
    return [encoded(item, name) for item in value]


def env(request: Request, name: str = "env") -> dict[bytes, bytes]:
    """Environment variables; none if the field is missing or null."""
    value = request.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise invalid(f"{name!r} must be an object of texts")
    result = {}
    for key, content in value.items():
        if not isinstance(content, str) or not key or "=" in key:
            raise invalid(f"{name!r}: {key!r:.80} is not a variable's name with a text")
        result[encoded(key, "a variable")] = encoded(content, f"variable {key!r:.80}")
    return result


def descriptors(request: Request, received: list[int]) -> dict[int, int]:
    """Field `fds` of a command: the child's descriptor number to one of those received."""
    result = {}
    for key, index in _fds(request).items():
        if not key.isdecimal() or not key.isascii() or len(key) > 2 or int(key) > _MAX_TARGET:
            raise invalid(f"'fds': {key!r:.80} is not a descriptor from 0 to {_MAX_TARGET}")
        result[int(key)] = _received(index, received)
    return result


def descriptor(request: Request, name: str, received: list[int]) -> int:
    """The received descriptor that field `fds` names `name`."""
    fds = _fds(request)
    if name not in fds:
        raise invalid(f"'fds' lacks {name!r}")
    return _received(fds[name], received)


def _fds(request: Request) -> dict[str, object]:
    value = request.get("fds")
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise invalid("'fds' must be an object")
    return value


def _received(index: object, received: list[int]) -> int:
    if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < len(received):
        raise invalid(f"'fds': {index!r:.80} is not the index of one of {len(received)} received")
    return received[index]
