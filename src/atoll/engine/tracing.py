"""Spans for OpenTelemetry, for those who installed the extra ``traces`` and asked for them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

from atoll.model import InvalidArgument

if TYPE_CHECKING:
    from opentelemetry.trace import Span


class Tracer:
    """Makes spans with OpenTelemetry's API; without its SDK set up they go nowhere.

    Raises:
        InvalidArgument: OpenTelemetry is not installed.
    """

    def __init__(self) -> None:
        try:
            from opentelemetry import trace
        except ImportError as error:
            raise InvalidArgument(
                "traces need OpenTelemetry, which is not installed",
                hint="pip install 'atoll[traces]'",
            ) from error
        self._tracer = trace.get_tracer("atoll")

    def span(self, name: str, attributes: dict[str, str]) -> AbstractContextManager[Span]:
        """A span for the block, beneath the one that is current; an exception marks it failed."""
        return self._tracer.start_as_current_span(name, attributes=attributes)

    def begin(self, name: str, attributes: dict[str, str]) -> Span:
        """A span that ends when its `end` is called, beneath the one that is current."""
        return self._tracer.start_span(name, attributes=attributes)


@contextmanager
def traced(tracer: Tracer | None, name: str, **attributes: str) -> Iterator[None]:
    """A span for the block, if there is a tracer."""
    if tracer is None:
        yield
        return
    with tracer.span(name, attributes):
        yield
