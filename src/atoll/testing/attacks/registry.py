"""All attacks, by section."""

from __future__ import annotations

from atoll.testing.attacks import (
    ends,
    files,
    identity,
    inherited,
    kernel_surface,
    namespaces,
    network,
    processes,
    randomness,
    resources,
    template,
)
from atoll.testing.attacks.model import Attack

ATTACKS: tuple[Attack, ...] = (
    *identity.ATTACKS,
    *inherited.ATTACKS,
    *namespaces.ATTACKS,
    *kernel_surface.ATTACKS,
    *processes.ATTACKS,
    *files.ATTACKS,
    *network.ATTACKS,
    *randomness.ATTACKS,
    *resources.ATTACKS,
    *ends.ATTACKS,
    *template.ATTACKS,
)


def named(names: list[str] | None) -> tuple[Attack, ...]:
    """The attacks with these names or of these sections; None: all.

    Raises:
        KeyError: nothing has such a name.
    """
    if not names:
        return ATTACKS
    known = {attack.name for attack in ATTACKS} | {attack.section for attack in ATTACKS}
    for name in names:
        if name not in known:
            raise KeyError(name)
    return tuple(a for a in ATTACKS if a.name in names or a.section in names)


def table() -> str:
    """A Markdown table of every attack's name, section and question."""
    rows = [f"| `{a.name}` | {a.section} | {a.question} |" for a in ATTACKS]
    return "\n".join(["| attack | section | question |", "| --- | --- | --- |", *rows]) + "\n"
