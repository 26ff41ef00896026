"""The one writer of a log file: a queue and a thread, so that no line is torn and none waits."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import threading
from collections import deque
from pathlib import Path

from atoll.model import OwnerError

_GATHER_SECONDS = 0.05
"""Lines are gathered for so long and written together: what SIGKILL can cost."""

_MOST_WAITING = 64 << 20
_RETRY_SECONDS = 1.0
_CLOSE_SECONDS = 10.0
_TAIL = 1 << 20


class LineWriter:
    """Appends whole lines to `path`, and puts the file aside when it is full.

    ``path`` is the newest file, ``path.1`` the one before it, up to ``path.KEEP``. A lock beside it
    (``path.lock``) keeps a second writer away. A last line that a killed process has left
    unfinished is removed when the next one opens the file.

    Args:
        path: the file.
        max_size: bytes after which another file is begun; only a single longer line is longer.
        keep: older files that stay.

    Raises:
        OwnerError: another process writes this file.
        OSError: it cannot be written.
    """

    def __init__(self, path: Path, max_size: int, keep: int) -> None:
        self._path = path
        self._max_size = max_size
        self._keep = keep
        self._lines: deque[bytes] = deque()
        self._waiting = 0
        self._lost = 0
        self._rest = b""
        self._busy = False
        self._closing = False
        self._changed = threading.Condition()
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = _locked(path)
        try:
            self._fd, self._size = _opened(path)
        except OSError:
            os.close(self._lock)
            raise
        # A daemon: logging's own end closes it, which comes after that of other threads.
        self._thread = threading.Thread(target=self._run, name=f"log {path.name}", daemon=True)
        self._thread.start()

    def write(self, line: bytes) -> None:
        """Have `line` written, which ends with a newline. Never waits for the disk.

        Only if the disk takes nothing until 64 MiB wait are lines lost, and then counted.
        """
        with self._changed:
            if self._closing or self._waiting + len(line) > _MOST_WAITING:
                self._lost += 1
                return
            self._lines.append(line)
            self._waiting += len(line)
            if len(self._lines) == 1:
                self._changed.notify_all()

    def flush(self, timeout: float = _CLOSE_SECONDS) -> bool:
        """Wait until every line so far is in the file; False if that takes longer."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._lines and not self._busy, timeout)

    def close(self) -> None:
        """Write what waits, and let go of the file; may be called twice."""
        with self._changed:
            if self._closing:
                return
            self._closing = True
            self._changed.notify_all()
        self._thread.join(_CLOSE_SECONDS)
        if not self._thread.is_alive():
            os.close(self._fd)
            os.close(self._lock)

    def _run(self) -> None:
        while self._take_turn():
            pass

    def _take_turn(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._lines or self._closing)
            # An interval without a line ends at once when it is time to close.
            self._changed.wait_for(lambda: self._closing, _GATHER_SECONDS)
            lines, self._lines = self._lines, deque()
            self._busy = True
            lost, self._lost = self._lost, 0
        if lost:
            lines.append(_lost_line(lost))
        self._write_all(lines)
        with self._changed:
            self._busy = False
            self._waiting = sum(map(len, self._lines))
            self._changed.notify_all()
            return bool(self._lines) or not self._closing

    def _write_all(self, lines: deque[bytes]) -> None:
        while lines or self._rest:
            try:
                if not self._rest:
                    self._rest = self._next_piece(lines)
                written = os.write(self._fd, self._rest)
                self._rest = self._rest[written:]
                self._size += written
            except OSError:
                # A full or broken disk: the lines wait, up to the bound, and are tried again.
                with self._changed:
                    if self._changed.wait_for(lambda: self._closing, _RETRY_SECONDS):
                        return

    def _next_piece(self, lines: deque[bytes]) -> bytes:
        """As many whole lines as the file has room for, at least one."""
        if self._size and self._size + len(lines[0]) > self._max_size:
            self._put_aside()
        piece = [lines.popleft()]
        size = self._size + len(piece[0])
        while lines and size + len(lines[0]) <= self._max_size:
            size += len(lines[0])
            piece.append(lines.popleft())
        return b"".join(piece)

    def _put_aside(self) -> None:
        for number in range(self._keep, 0, -1):
            older = self._numbered(number - 1) if number > 1 else self._path
            with contextlib.suppress(FileNotFoundError):
                older.replace(self._numbered(number))
        if self._keep == 0:
            self._path.unlink(missing_ok=True)
        fd, self._size = _opened(self._path)
        os.close(self._fd)
        self._fd = fd

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")


class LineHandler(logging.Handler):
    """Gives each record, as its formatter writes it, to a LineWriter.

    The line is made by the thread that logs, so that it carries that thread's ids.
    """

    def __init__(self, writer: LineWriter) -> None:
        super().__init__()
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        """See logging.Handler."""
        try:
            self._writer.write(self.format(record).encode() + b"\n")
        except Exception:
            self.handleError(record)

    def flush(self) -> None:
        """See logging.Handler."""
        self._writer.flush()

    def close(self) -> None:
        """See logging.Handler."""
        self._writer.close()
        super().close()


def _lost_line(count: int) -> bytes:
    return b'{"level":"WARNING","logger":"atoll","message":"%d lines were lost here"}\n' % count


def _locked(path: Path) -> int:
    lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise
        raise OwnerError(
            f"another process writes the log {path}", hint="give each process a path of its own"
        ) from error
    return lock


def _opened(path: Path) -> tuple[int, int]:
    """The file, ready for a whole line, and its size."""
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
    fd = os.open(path, flags, 0o600)
    size = os.fstat(fd).st_size
    start = max(0, size - _TAIL)
    tail = os.pread(fd, size - start, start)
    if tail and not tail.endswith(b"\n"):
        size = start + tail.rfind(b"\n") + 1
        os.ftruncate(fd, size)
    return fd, size
