"""Texts that no log line, error or dump may show."""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NoReturn

HIDDEN = "[redacted]"

_PARTS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_WORDS = frozenset(
    {
        "auth", "authorization", "bearer", "cookie", "cookies", "dsn", "jwt", "key", "keys",
        "pass", "passphrase", "passwd", "private", "pwd", "sas", "session", "sig", "signature",
    }
)  # fmt: skip
_WITHIN = ("password", "passwd", "secret", "token", "apikey", "credential", "privatekey")
_SHAPES = re.compile(
    r"://[^/\s:@]*:[^/\s@]+@"  # a password in a URL
    r"|-----BEGIN [A-Z ]*PRIVATE KEY"
    r"|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"
    r"|\b(?:sk|pk|ghp|gho|ghs|glpat|xox[abp]|e2b)[-_][A-Za-z0-9_-]{16,}"
    r"|\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\."
)


class Secret:
    """A text that shows itself only to `reveal`.

    Printing, formatting, logging or dumping it gives ``[redacted]``; it cannot be pickled.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The text itself."""
        return self._value

    def __repr__(self) -> str:
        return f"Secret({HIDDEN})"

    def __str__(self) -> str:
        return HIDDEN

    def __format__(self, _: str) -> str:
        return HIDDEN

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._value.encode(), other._value.encode())

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __bool__(self) -> bool:
        return bool(self._value)

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, _: Any) -> Secret:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret cannot be pickled: hand it over in memory")


@lru_cache(maxsize=1024)
def is_secret_name(name: str) -> bool:
    """Whether a variable or field of this name holds a secret, as names go."""
    parts = {part.lower() for part in _PARTS.findall(name)}
    joined = re.sub(r"[^a-z]", "", name.lower())
    return bool(parts & _WORDS) or any(word in joined for word in _WITHIN)


def redacted(value: Any, name: str = "") -> Any:
    """`value` as it may be shown: secrets by type, by name and by shape are hidden.

    Args:
        value: texts, numbers, mappings and sequences of them; anything else becomes its text.
        name: what it is called, if it has a name.
    """
    if value is None:
        return None
    if isinstance(value, Secret) or (name and is_secret_name(name)):
        return HIDDEN
    if isinstance(value, int | float):
        return value
    if isinstance(value, str):
        return HIDDEN if _SHAPES.search(value) else value
    if isinstance(value, Mapping):
        return {str(key): redacted(item, str(key)) for key, item in value.items()}
    if isinstance(value, Sequence | set | frozenset) and not isinstance(value, bytes):
        return [redacted(item) for item in value]
    text = str(value)
    return HIDDEN if _SHAPES.search(text) else text
