"""Directories that are built once, by one builder, and then only read.

A built directory is named by a hash of what went into it, so it never changes and needs no lock
to be read. It appears by rename(2): what is there is whole.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from atoll.model import TemplateError

_UNFINISHED = ".unfinished-"


def private_directory(path: Path) -> Path:
    """`path`, made if missing, closed to every other account.

    Built trees hold files of uid 1000 (the sandbox's `user`); the closed parent keeps the account
    that happens to have this uid on the machine from changing them.
    """
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(0o700)
    return path


@contextmanager
def sole_builder(parent: Path, key: str, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold the lock of `key` in `parent`; `waiting` is called once if another process has it."""
    descriptor = os.open(parent / f".lock-{key}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def unfinished(parent: Path, key: str) -> Iterator[Path]:
    """A fresh directory that becomes `parent/key` when the block ends well, and else is removed.

    The caller holds the lock of `key`, so whatever an earlier builder left is nobody's.
    """
    work = parent / f"{_UNFINISHED}{key}"
    remove_tree(work)
    work.mkdir(mode=0o755)
    try:
        with disk_errors(work):
            yield work
            work.rename(parent / key)
    except BaseException:
        remove_tree(work)
        raise


def build_once(parent: Path, key: str, fill: Callable[[Path], None]) -> Path:
    """`parent/key`, filled by `fill` if it is not there yet.

    Raises:
        TemplateError: it cannot be written (disk full, no permission).
    """
    final = parent / key
    if final.is_dir():
        return final
    with disk_errors(parent):
        private_directory(parent)
    with sole_builder(parent, key, waiting=lambda: None):
        if not final.is_dir():
            with unfinished(parent, key) as work:
                fill(work)
    return final


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn what a filesystem refuses into a TemplateError that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise disk_full(path) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise TemplateError(
                f"cannot write below {path}: {error.strerror}",
                hint="set ATOLL_DATA_DIR to a directory that you can write",
            ) from error
        raise


def disk_full(path: Path) -> TemplateError:
    """The error of a build that ran out of disk."""
    free = shutil.disk_usage(path if path.is_dir() else path.parent).free >> 20
    return TemplateError(
        f"the disk of {path} is full ({free} MiB free)",
        hint="free about 2 GiB there, or set ATOLL_DATA_DIR to a directory on a larger disk",
    )


def remove_tree(path: Path) -> None:
    """Remove a tree that a build left. Missing is fine."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
