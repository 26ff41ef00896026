"""`Logging`: where an engine's log goes, and how much of it stays."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from atoll.engine.logs.json_lines import JsonLines
from atoll.engine.logs.writer import LineHandler, LineWriter
from atoll.model import InvalidArgument, parse_size

AUDIT = "atoll.audit"


class Logging:
    """Writes what is logged under ``atoll`` to a file of JSON lines.

    Give it to an engine, or use it in ``with``. Without a path nothing is written, and the standard
    library's logging alone decides what is shown.

    Args:
        path: the file; the ones before it are ``path.1``, ``path.2`` and so on.
        max_size: bytes of one file, or text such as ``"100M"``.
        keep: older files that stay.
        level: the least that is written: ``DEBUG``, ``INFO``, ``WARNING`` or ``ERROR``.
        audit: a file for the audit log as well, kept in the same way.
        sandbox_size: bytes of each sandbox's own log, in memory.
    """

    def __init__(
        self,
        path: Path | str | None = None,
        *,
        max_size: int | str = "100M",
        keep: int = 5,
        level: str = "INFO",
        audit: Path | str | None = None,
        sandbox_size: int | str = "256K",
    ) -> None:
        if isinstance(keep, bool) or not isinstance(keep, int) or keep < 0:
            raise InvalidArgument(f"keep is a number of files, not {keep!r}")
        if level not in ("DEBUG", "INFO", "WARNING", "ERROR"):
            raise InvalidArgument(f"level is DEBUG, INFO, WARNING or ERROR, not {level!r}")
        self.path = None if path is None else Path(path)
        self.audit = None if audit is None else Path(audit)
        self.max_size = parse_size(max_size)
        self.keep = keep
        self.level = level
        self.sandbox_size = parse_size(sandbox_size)
        self._open = ExitStack()

    def open(self) -> None:
        """Begin to write.

        Raises:
            OwnerError: another process writes one of the files.
            OSError: a file cannot be written.
        """
        with ExitStack() as opening:
            if self.path is not None:
                self._attach(opening, "atoll", self.path)
            if self.audit is not None:
                self._attach(opening, AUDIT, self.audit)
            self._open = opening.pop_all()

    def close(self) -> None:
        """Write what waits, and stop; may be called twice."""
        self._open.close()

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _attach(self, opening: ExitStack, name: str, path: Path) -> None:
        handler = LineHandler(LineWriter(path, self.max_size, self.keep))
        opening.callback(handler.close)
        handler.setFormatter(JsonLines())
        handler.setLevel(self.level)
        logger = logging.getLogger(name)
        opening.callback(logger.setLevel, logger.level)
        wanted = logging.getLevelNamesMapping()[self.level]
        logger.setLevel(min(wanted, logger.getEffectiveLevel()))
        logger.addHandler(handler)
        opening.callback(logger.removeHandler, handler)
