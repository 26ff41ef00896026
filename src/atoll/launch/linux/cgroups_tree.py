"""Files of one cgroup hierarchy, reached from one open directory."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path


class Tree:
    """The directory that holds one owner's cgroups in one hierarchy.

    It keeps one descriptor, so that a path is resolved once and a later change of mounts does not
    matter. Tests give a subclass whose `make` plays the kernel's part and creates the files.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def make(self, name: str) -> None:
        """Create the cgroup `name`; FileExistsError if it is there."""
        os.mkdir(name, 0o755, dir_fd=self._fd)

    def remove(self, name: str) -> None:
        """Remove the empty cgroup `name`; OSError EBUSY while a process or a child is in it."""
        os.rmdir(name, dir_fd=self._fd)

    def names(self) -> list[str]:
        """The cgroups that are there."""
        listing = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._fd)
        try:
            with os.scandir(listing) as entries:
                return sorted(e.name for e in entries if e.is_dir(follow_symlinks=False))
        finally:
            os.close(listing)

    def has(self, name: str, file: str) -> bool:
        """Whether the kernel offers `file` for this cgroup."""
        try:
            os.stat(f"{name}/{file}", dir_fd=self._fd)
        except FileNotFoundError:
            return False
        return True

    def read(self, name: str, file: str) -> str:
        """The content of one of its files."""
        descriptor = self.open(name, file, os.O_RDONLY)
        try:
            chunks = []
            while chunk := os.read(descriptor, 1 << 16):
                chunks.append(chunk)
            return b"".join(chunks).decode()
        finally:
            os.close(descriptor)

    def write(self, name: str, file: str, value: str) -> None:
        """One write to one of its files, as the kernel wants it."""
        descriptor = self.open(name, file, os.O_WRONLY | os.O_TRUNC)
        try:
            os.write(descriptor, value.encode())
        finally:
            os.close(descriptor)

    def open(self, name: str, file: str, flags: int) -> int:
        """A descriptor of one of its files, or of the cgroup's directory with file ``.``."""
        return os.open(f"{name}/{file}", flags | os.O_CLOEXEC, dir_fd=self._fd)

    def set_mode(self, name: str, file: str, mode: int) -> None:
        """Say who may write to one of its files."""
        os.chmod(f"{name}/{file}", mode, dir_fd=self._fd)

    def dissolve(self) -> bool:
        """Remove this directory, and the one above if no other owner uses it; False if in use."""
        try:
            self.path.rmdir()
        except FileNotFoundError:
            return True
        except OSError:
            return False
        with contextlib.suppress(OSError):
            self.path.parent.rmdir()
        return True

    def close(self) -> None:
        """Give the descriptor back; may be called twice."""
        descriptor, self._fd = self._fd, -1
        if descriptor >= 0:
            os.close(descriptor)


def read_field(text: str, key: str) -> int:
    """The number behind `key` in a "key value" file such as memory.events; 0 if there is none."""
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        if name == key:
            return int(value)
    return 0


def remove_with_patience(tree: Tree, name: str, deadline: float) -> bool:
    """Remove a cgroup whose last process may still be on its way out (rmdir says EBUSY till then).

    Returns False if it is still there at `deadline` (time.monotonic).
    """
    pause = 0.0005
    while True:
        try:
            tree.remove(name)
            return True
        except FileNotFoundError:
            return True
        except OSError:
            if time.monotonic() >= deadline:
                return False
        time.sleep(pause)
        pause = min(pause * 2, 0.02)


def make_directory(path: Path) -> None:
    """Create a directory of ours above the sandboxes' cgroups; another engine may be first."""
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o755)
