"""Who asked for what is being done now: ids that every log line of it carries."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True)
class Ids:
    """What a line of the log belongs to.

    Attributes:
        request: one call of a client's, as its server numbers them.
        actor: who asked: a user, an API key's name.
        sandbox: its id.
        execution: one cell or command.
    """

    request: str | None = None
    actor: str | None = None
    sandbox: str | None = None
    execution: str | None = None


_ids: ContextVar[Ids] = ContextVar("atoll_ids", default=Ids())  # noqa: B039 # it is frozen


def current() -> Ids:
    """The ids that hold here."""
    return _ids.get()


@contextmanager
def bound(
    *,
    request: str | None = None,
    actor: str | None = None,
    sandbox: str | None = None,
    execution: str | None = None,
) -> Iterator[Ids]:
    """Lines that are logged inside the block, and in tasks started there, carry these ids.

    What is None stays as it was outside.
    """
    outer = _ids.get()
    ids = Ids(
        request=outer.request if request is None else request,
        actor=outer.actor if actor is None else actor,
        sandbox=outer.sandbox if sandbox is None else sandbox,
        execution=outer.execution if execution is None else execution,
    )
    token = _ids.set(ids)
    try:
        yield ids
    finally:
        _ids.reset(token)


@contextmanager
def unbound() -> Iterator[None]:
    """What is begun inside the block belongs to nobody's request."""
    token = _ids.set(Ids())
    try:
        yield
    finally:
        _ids.reset(token)
