"""What is asked for when a command is started."""

from __future__ import annotations

from dataclasses import dataclass, field

from atoll.engine.marks import new_mark


@dataclass(frozen=True)
class StartRequest:
    """One command to start.

    Attributes:
        terminal: (rows, columns) of a pty, or None for pipes.
        mark: borne by all that it starts.
    """

    argv: tuple[str, ...]
    env: dict[str, str] = field(default_factory=dict)
    user: str | None = None
    cwd: str | None = None
    tag: str | None = None
    stdin: bool = False
    terminal: tuple[int, int] | None = None
    mark: int = field(default_factory=new_mark)
