"""Samples in SQLite: a file in the data directory, shared by all its owners, pruned."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from atoll.engine.metrics.series import FIELDS, row_of, sample_of
from atoll.engine.metrics.settings import History, HistoryError
from atoll.model import MetricsSample

DIRECTORY = "metrics"
FILE = "history.sqlite"
_BUSY_SECONDS = 5.0
_LAYOUT = 1  # PRAGMA user_version; a file with another one is begun anew

_NUMBERS = ", ".join(FIELDS)
_MARKS = ", ".join("?" for _ in FIELDS)


class HistoryFile:
    """The file in `directory`. Every method blocks: call it in a worker thread.

    Args:
        directory: where it lies; is made if it is not there.
        settings: how much is kept, and for how long.
    """

    def __init__(self, directory: Path, settings: History) -> None:
        self._settings = settings
        self._one_at_a_time = threading.Lock()
        directory.mkdir(mode=0o700, exist_ok=True)
        path = directory / FILE
        # Ours alone before SQLite opens it; its journals get the same mode.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        self._database = sqlite3.connect(path, timeout=_BUSY_SECONDS, check_same_thread=False)
        try:
            with self._transaction() as transaction:
                _lay_out(transaction)
        except BaseException:
            self._database.close()
            raise

    def add(self, samples: Iterable[tuple[str, MetricsSample]]) -> None:
        """Keep these, by sandbox. Raises HistoryError."""
        rows = [(id, *_nullable(sample)) for id, sample in samples]
        with self._transaction() as transaction:
            transaction.executemany(
                f"INSERT INTO samples (sandbox, {_NUMBERS}) VALUES (?, {_MARKS})",  # noqa: S608
                rows,
            )

    def prune(self, now: float) -> None:
        """Remove what is too old at `now`, or too much. Raises HistoryError."""
        with self._transaction() as transaction:
            # Rows come in the order of time, so their numbers say their age.
            kept = transaction.execute(
                "SELECT rowid FROM samples WHERE timestamp >= ? ORDER BY rowid LIMIT 1",
                (now - self._settings.keep,),
            ).fetchone()
            newest = transaction.execute("SELECT max(rowid) FROM samples").fetchone()[0] or 0
            first = newest + 1 if kept is None else kept[0]
            first = max(first, newest - self._settings.most + 1)
            transaction.execute("DELETE FROM samples WHERE rowid < ?", (first,))

    def between(self, sandbox: str, start: float, end: float) -> list[MetricsSample]:
        """The samples of `sandbox` in this time, oldest first. Raises HistoryError."""
        with self._transaction() as transaction:
            rows = transaction.execute(
                f"SELECT {_NUMBERS} FROM samples "  # noqa: S608
                "WHERE sandbox = ? AND timestamp BETWEEN ? AND ? ORDER BY timestamp",
                (sandbox, start, end),
            ).fetchall()
        return [sample_of([float("nan") if v is None else v for v in row]) for row in rows]

    def close(self) -> None:
        """Let go of the file; may be called twice."""
        with self._one_at_a_time:
            self._database.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        try:
            with self._one_at_a_time, self._database as transaction:
                yield transaction
        except sqlite3.DatabaseError as error:
            raise HistoryError(f"the history of metrics: {error}") from error


def _lay_out(transaction: sqlite3.Connection) -> None:
    transaction.execute("PRAGMA journal_mode = WAL")
    transaction.execute("PRAGMA synchronous = NORMAL")
    transaction.execute("BEGIN IMMEDIATE")
    if transaction.execute("PRAGMA user_version").fetchone()[0] != _LAYOUT:
        transaction.execute("DROP TABLE IF EXISTS samples")
        transaction.execute(f"CREATE TABLE samples (sandbox TEXT NOT NULL, {_NUMBERS})")
        transaction.execute("CREATE INDEX by_sandbox ON samples (sandbox, timestamp)")
        transaction.execute(f"PRAGMA user_version = {_LAYOUT}")


def _nullable(sample: MetricsSample) -> list[float | None]:
    return [None if number != number else number for number in row_of(sample)]


def open_history(directory: Path, settings: History) -> HistoryFile:
    """The file in `directory`; one that is no database is put aside as ``history.sqlite.bad``.

    Raises:
        HistoryError, OSError: it cannot be used.
    """
    try:
        return HistoryFile(directory, settings)
    except HistoryError as error:
        if not _is_rubbish(error.__cause__):
            raise
    path = directory / FILE
    path.replace(path.with_name(f"{FILE}.bad"))
    for beside in (f"{FILE}-wal", f"{FILE}-shm"):
        path.with_name(beside).unlink(missing_ok=True)
    return HistoryFile(directory, settings)


def _is_rubbish(error: BaseException | None) -> bool:
    # A full disk or a held lock is an OperationalError, and no reason to begin anew.
    return isinstance(error, sqlite3.DatabaseError) and not isinstance(
        error, sqlite3.OperationalError
    )
