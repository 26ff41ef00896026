"""The languages that contexts speak, and the names that callers use for them."""

from __future__ import annotations

from atoll.model import UnknownLanguage

ALIASES: dict[str, str] = {
    "python": "python",
    "python3": "python",
    "py": "python",
    "javascript": "javascript",
    "js": "javascript",
    "typescript": "typescript",
    "ts": "typescript",
    "bash": "bash",
    "sh": "bash",
    "shell": "bash",
    "r": "r",
    "java": "java",
}
"""Every accepted name, lower case, and the language that it means."""


def language_named(name: str) -> str:
    """The language that `name` means; case does not matter.

    Raises:
        UnknownLanguage: no language has this name.
    """
    language = ALIASES.get(name.strip().lower()) if isinstance(name, str) else None
    if language is None:
        known = ", ".join(sorted(set(ALIASES.values())))
        raise UnknownLanguage(f"no language is called {name!r}", hint=f"the languages are {known}")
    return language
