"""The file worker: one operation in a forked process, with the rights of the user who asked.

A FIFO, a device, a file of /proc or a full disk can harm this process only. It answers on its
descriptor 1: a line of JSON, `{"ok": …}` or `{"error": …}`, then what the operation has to say.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import stat

from atoll.guest import entries, fields, move, remove, transfer, watch
from atoll.guest.refusal import Refused, invalid, of_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from atoll.guest.fields import Request
    from atoll.guest.users import Account, Accounts

_IN, _OUT = 0, 1
_SAFE = os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_FLUSH = 1 << 16
_MAX_DEPTH = 1000


class Job:
    """One operation and what it needs."""

    def __init__(self, request: Request, account: Account, accounts: Accounts) -> None:
        self.request = request
        self.accounts = accounts
        self.answered = False
        self._home = account.home

    def path(self, name: str = "path") -> bytes:
        """The absolute path in field `name`."""
        return fields.path(fields.text(self.request, name), self._home)

    def answer(self, ok: str = "{}") -> None:
        """Say that it worked; `ok` is JSON."""
        self.answered = True
        transfer.write_all(_OUT, b'{"ok":%s}\n' % ok.encode())

    def what(self) -> str:
        """What was asked, for error texts."""
        names = [str(self.request.get(n, "")) for n in ("path", "source", "target")]
        shown = " to ".join(name for name in names if name)
        return f"{self.request.get('do')} {shown:.300}"


def work(request: Request, account: Account, accounts: Accounts) -> Callable[[], None]:
    """What the forked process does for this request.

    Raises:
        Refused: there is no such operation.
    """
    operation = _OPERATIONS.get(fields.text(request, "do"))
    if operation is None:
        raise invalid(f"there is no file operation {request['do']!r:.80}")
    return lambda: _work(operation, Job(request, account, accounts))


def _work(operation: Callable[[Job], None], job: Job) -> None:
    # A file over its size limit is then an error (EFBIG), not the end of this process.
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        operation(job)
        return
    except Refused as error:
        refused = error
    except OSError as error:
        refused = of_file(error, job.what())
    except Exception as error:
        refused = Refused("file_error", f"{job.what()}: {error!r:.200}")
    if job.answered:
        os._exit(1)  # what follows an answer is bytes: the host sees that some are missing
    line = json.dumps({"error": refused.as_json()}) + "\n"
    transfer.write_all(_OUT, line.encode())


def _read(job: Job) -> None:
    offset = fields.number(job.request, "offset", 0)
    asked = fields.number(job.request, "length", -1)
    fd, size = _open_regular(job.path(), os.O_RDONLY)
    rest = max(0, size - offset)
    count = rest if asked < 0 else min(rest, asked)
    if count or not size:
        os.lseek(fd, offset, os.SEEK_SET)
    job.answer(f'{{"size":{count}}}')
    # A file that grows meanwhile gives what was announced; files of /proc announce nothing.
    transfer.send(fd, _OUT, count if size else (asked if asked >= 0 else None))


def _write(job: Job) -> None:
    path = job.path()
    mode = fields.number(job.request, "mode", -1, high=0o7777)
    append = fields.flag(job.request, "append")
    flags = os.O_WRONLY | os.O_CREAT | (os.O_APPEND if append else 0)
    try:
        fd, _ = _open_regular(path, flags)
    except FileNotFoundError:
        _make_directories(os.path.dirname(path.rstrip(b"/")))
        fd, _ = _open_regular(path, flags)
    if not append:
        os.ftruncate(fd, 0)
    if mode >= 0:
        os.fchmod(fd, mode)
    transfer.receive(_IN, fd)
    os.close(fd)
    job.answer(f'{{"entry":{entries.entry(path, job.accounts)}}}')


def _stat(job: Job) -> None:
    job.answer(f'{{"entry":{entries.entry(job.path(), job.accounts)}}}')


def _exists(job: Job) -> None:
    try:
        os.lstat(job.path())
    except (FileNotFoundError, NotADirectoryError):
        job.answer('{"exists":false}')
    else:
        job.answer('{"exists":true}')


def _list(job: Job) -> None:
    depth = fields.number(job.request, "depth", 1, high=_MAX_DEPTH)
    lines = entries.listing(job.path(), max(1, depth), job.accounts)
    first = next(lines, None)
    job.answer()
    if first is None:
        return
    parts = [first]
    size = len(first)
    for line in lines:
        parts.append(line)
        size += len(line)
        if size > _FLUSH:
            transfer.write_all(_OUT, ("\n".join(parts) + "\n").encode())
            parts, size = [], 0
    if parts:
        transfer.write_all(_OUT, ("\n".join(parts) + "\n").encode())


def _make_dir(job: Job) -> None:
    path = job.path()
    created = _make_directories(path)
    if not created and not os.path.isdir(path):
        raise OSError(errno.EEXIST, "a file of this name is there")
    entry = entries.entry(path, job.accounts)
    job.answer(f'{{"created":{json.dumps(created)},"entry":{entry}}}')


def _move(job: Job) -> None:
    source, target = job.path("source"), job.path("target")
    os.lstat(source)
    _make_directories(os.path.dirname(target.rstrip(b"/")))
    move.move(source, target)
    job.answer(f'{{"entry":{entries.entry(target, job.accounts)}}}')


def _remove(job: Job) -> None:
    remove.remove(job.path())
    job.answer()


def _watch(job: Job) -> None:
    watch.watch(job.path(), _OUT, fields.flag(job.request, "recursive"), job.answer)


def _open_regular(path: bytes, flags: int) -> tuple[int, int]:
    """A regular file and its size; opening never waits and nothing else is ever read or written."""
    fd = os.open(path, flags | _SAFE, 0o666)
    info = os.fstat(fd)
    if stat.S_ISDIR(info.st_mode):
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(info.st_mode):
        raise Refused("not_a_regular_file", f"{fields.decoded(path)!r:.300} is not a regular file")
    return fd, info.st_size


def _make_directories(path: bytes) -> bool:
    """Make a directory and those above it that are missing; False if something is there already."""
    missing = []
    path = path.rstrip(b"/") or b"/"
    while not os.path.lexists(path):
        missing.append(path)
        path = os.path.dirname(path).rstrip(b"/") or b"/"
    for directory in reversed(missing):
        try:
            os.mkdir(directory)
        except FileExistsError:
            if not os.path.isdir(directory):
                raise
    return bool(missing)


_OPERATIONS: dict[str, Callable[[Job], None]] = {
    "read": _read,
    "write": _write,
    "stat": _stat,
    "exists": _exists,
    "list": _list,
    "make_dir": _make_dir,
    "move": _move,
    "remove": _remove,
    "watch": _watch,
}
