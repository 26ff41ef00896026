"""A log record as one line of JSON."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Any

from atoll.engine.logs.ids import current
from atoll.model import redacted

_MOST_CHARS = 1 << 16
_OWN = frozenset({"timestamp", "level", "logger", "message", "exception"})


class JsonLines(logging.Formatter):
    """Timestamp, level, logger, message, the ids that hold, and the record's `fields`.

    ``extra={"fields": {...}}`` of a logging call adds fields. Secrets are hidden in them by type,
    name and shape.
    """

    def format(self, record: logging.LogRecord) -> str:
        """One line without its end; whatever is in the record, it is one line of ASCII."""
        line: dict[str, Any] = {
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(
                timespec="microseconds"
            ),
            "level": record.levelname,
            "logger": record.name,
            "message": _bounded(record.getMessage()),
        }
        line |= {name: id for name, id in vars(current()).items() if id is not None}
        fields = getattr(record, "fields", None)
        if isinstance(fields, dict):
            shown = redacted(fields)
            line |= {name: value for name, value in shown.items() if name not in _OWN}
        if record.exc_info and record.exc_info[0] is not None:
            line["exception"] = _bounded(self.formatException(record.exc_info))
        return json.dumps(line, default=str, separators=(",", ":"))


def _bounded(text: str) -> str:
    if len(text) <= _MOST_CHARS:
        return text
    return f"{text[:_MOST_CHARS]}… ({len(text)} characters)"
