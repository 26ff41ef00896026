"""What is known of a context: what its users see, and what the host needs to run cells in it."""

from __future__ import annotations

from dataclasses import dataclass, field

import anyio

from atoll.engine.contexts import ContextClient
from atoll.engine.marks import new_mark


@dataclass(frozen=True)
class Context:
    """A stateful interpreter in a sandbox.

    Attributes:
        fresh: on an interpreter of its own, not forked: with string hash seeds of its own.
    """

    id: str
    language: str
    cwd: str
    user: str
    env: dict[str, str] = field(default_factory=dict)
    fresh: bool = False


class RunningContext:
    """A context's process, as far as the host knows it."""

    def __init__(self, context: Context, mark: int | None = None) -> None:
        self.context = context
        self.mark = mark or new_mark()
        """Borne by all that it starts."""
        self.client: ContextClient | None = None
        self.child: int | None = None
        """Its pid, if it is the guest's child; one that was forked says its pid itself."""
        self.starting = anyio.Lock()
        self.cells = 0
        """Asked for and not ended."""
        self.died = False
        """Its state is lost: cells are refused until it is restarted on purpose."""


def context_id(context: Context | str) -> str:
    """The id of a context that callers may name by either."""
    return context.id if isinstance(context, Context) else context
