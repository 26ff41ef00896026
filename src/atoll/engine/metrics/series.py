"""The latest samples of one sandbox, in a ring of bounded size."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator
from dataclasses import fields
from operator import attrgetter

from atoll.model import Metrics, MetricsSample

FIELDS = tuple(sorted(field.name for field in fields(MetricsSample)))
"""The order of a row's numbers; None is NaN in a row."""

_WHOLE = frozenset(f.name for f in fields(MetricsSample) if str(f.type).startswith("int"))
_TIME = FIELDS.index("timestamp")
_values = attrgetter(*FIELDS)


def row_of(sample: MetricsSample) -> list[float]:
    """The numbers of `sample`; every count below 2**53 stays exact."""
    return [math.nan if value is None else value for value in _values(sample)]


def sample_of(row: list[float]) -> MetricsSample:
    """The sample that `row_of` has written."""
    named = zip(FIELDS, row, strict=True)
    return MetricsSample(**{name: _value(name, number) for name, number in named})  # type: ignore[arg-type]


def _value(name: str, number: float) -> float | None:
    if math.isnan(number):
        return None
    return int(number) if name in _WHOLE else number


class Series:
    """What was sampled of one sandbox.

    A sample takes about 160 bytes: as an object it would take five times that.

    Args:
        most: samples that are kept; the oldest makes room.
        cpu_count: cores that the sandbox may use.
    """

    def __init__(self, most: int, cpu_count: float) -> None:
        self._most = most
        self._cpu_count = cpu_count
        self._rows = array("d")
        self._next = 0
        self._before: tuple[float, float] | None = None

    def __len__(self) -> int:
        return len(self._rows) // len(FIELDS)

    def add(self, used: Metrics, now: float, time: float) -> MetricsSample:
        """Keep what was used at `now` on a clock that never goes back, which is `time` to people.

        Also returns it.
        """
        percent = None
        if used.cpu_time is not None:
            if self._before is not None and now > self._before[0]:
                spent = used.cpu_time - self._before[1]
                percent = max(0.0, 100 * spent / (now - self._before[0]))
            self._before = (now, used.cpu_time)
        sample = MetricsSample(
            **vars(used), timestamp=time, cpu_count=self._cpu_count, cpu_percent=percent
        )
        self._keep(array("d", row_of(sample)))
        return sample

    def last(self) -> MetricsSample | None:
        """The latest sample."""
        if not self._rows:
            return None
        place = (self._next or len(self)) - 1
        return sample_of(self._row(place))

    def between(self, start: float | None = None, end: float | None = None) -> list[MetricsSample]:
        """The samples from `start` to `end`, both with them, oldest first."""
        low = -math.inf if start is None else start
        high = math.inf if end is None else end
        return [sample_of(row) for row in self._in_order() if low <= row[_TIME] <= high]

    def _keep(self, row: array[float]) -> None:
        width = len(FIELDS)
        if len(self) < self._most:
            self._rows.extend(row)
            return
        self._rows[self._next * width : (self._next + 1) * width] = row
        self._next = (self._next + 1) % self._most

    def _in_order(self) -> Iterator[list[float]]:
        count = len(self)
        for place in range(count):
            yield self._row((self._next + place) % count)

    def _row(self, place: int) -> list[float]:
        width = len(FIELDS)
        return self._rows[place * width : (place + 1) * width].tolist()
