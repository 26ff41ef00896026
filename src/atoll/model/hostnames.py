"""The one way in which host names and domain patterns are read, wherever they come from."""

from __future__ import annotations

import re

MAX_NAME = 253
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")


def parse_hostname(text: str) -> str:
    """`text` in lower case and without the root's dot.

    Raises:
        ValueError: it is not a host name in ASCII. So are spellings of addresses: what one parser
            takes for a name another one takes for an address ("127.1", "0x7f000001").
    """
    # Before lower(): some letters beyond ASCII have lower cases within it.
    if not text.isascii():
        raise ValueError("a host name is written in ASCII (xn--... for others)")
    name = text.lower().removesuffix(".")
    if not 0 < len(name) <= MAX_NAME:
        raise ValueError(f"a host name has 1 to {MAX_NAME} characters")
    labels = name.split(".")
    if not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError("a host name is labels of letters, digits, '-' and '_' between dots")
    if _NUMBER.fullmatch(labels[-1]):
        raise ValueError("a host name does not end in a number")
    return name


def parse_pattern(text: str) -> str:
    """A host name, or ``*.`` and a host name, in lower case. Raises ValueError."""
    if text.startswith("*."):
        return "*." + parse_hostname(text[2:])
    return parse_hostname(text)


def matches(patterns: frozenset[str], name: str) -> bool:
    """True if `name` is one of the patterns, or lies below one that begins with ``*.``."""
    if name in patterns:
        return True
    rest = name
    while "." in rest:
        rest = rest.partition(".")[2]
        if f"*.{rest}" in patterns:
            return True
    return False
