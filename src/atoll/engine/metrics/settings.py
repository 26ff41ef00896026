"""What an engine measures of its sandboxes, how often, and for how long it is kept."""

from __future__ import annotations

from dataclasses import dataclass

from atoll.model import InvalidArgument


class HistoryError(OSError):
    """The history on disk cannot be used; metrics go on without it."""


@dataclass(frozen=True)
class History:
    """Samples on disk, in ``metrics/`` of the data directory, also of sandboxes that ended.

    Attributes:
        step: seconds between two samples of a sandbox that are kept.
        keep: seconds after which a sample is removed.
        most: samples of all sandboxes together; the oldest make room.
    """

    step: float = 10.0
    keep: float = 24 * 3600.0
    most: int = 1_000_000

    def __post_init__(self) -> None:
        _require_positive(step=self.step, keep=self.keep, most=self.most)


@dataclass(frozen=True)
class Monitoring:
    """How an engine watches its sandboxes.

    Attributes:
        interval: seconds between two samples of a sandbox.
        keep: samples of each sandbox in memory; the oldest makes room.
        history: keep samples on disk too.
        traces: give OpenTelemetry a span for each create, command, cell and end. Needs the extra
            ``traces``.
    """

    interval: float = 1.0
    keep: int = 300
    history: History | None = None
    traces: bool = False

    def __post_init__(self) -> None:
        _require_positive(interval=self.interval, keep=self.keep)


def _require_positive(**values: float) -> None:
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise InvalidArgument(f"{name} must be a number above zero, not {value!r}")
