"""Unpacks a tar that untrusted code has made, into one directory and nowhere else.

Only directories, files, links to files of the same archive and symbolic links are made. Symbolic
links come last, so nothing is ever written through one. A link's target may begin with ``..``, as
far as its own directory is deep, but has none later: so a link leads inside, and so does every
chain of them. (tarfile's own filter is missing in Python before 3.11.4.)
"""

from __future__ import annotations

import os
import shutil
import tarfile
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO

_EXECUTABLE, _PLAIN = 0o755, 0o644


class Unpacker:
    """Unpacks into `root`, which is made if it is missing."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._files: set[PurePosixPath] = set()
        self._links: dict[PurePosixPath, str] = {}

    def run(self, file: BinaryIO) -> None:
        """Unpack the archive that `file` holds.

        Raises:
            tarfile.TarError: it is none, or holds what may not be unpacked.
            OSError: something cannot be written.
        """
        self._root.mkdir(exist_ok=True)
        with tarfile.open(fileobj=file, mode="r|") as archive:
            for member in archive:
                self._take(archive, member)
        for path, target in self._links.items():
            self._place(path).symlink_to(target)

    def _take(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        path = _inside(member.name)
        if member.isdir():
            self._place(path).mkdir(exist_ok=True)
        elif member.isfile():
            source = archive.extractfile(member)
            assert source is not None
            self._write(path, source, member.mode)
        elif member.issym():
            self._links[path] = _leading_inside(path, member.linkname)
        elif member.islnk() and _inside(member.linkname) in self._files:
            self._place(path).hardlink_to(self._place(_inside(member.linkname)))
            self._files.add(path)
        else:
            raise tarfile.TarError(f"{member.name!r} is no file, directory or link")

    def _write(self, path: PurePosixPath, source: IO[bytes], mode: int) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(self._place(path), flags, _EXECUTABLE if mode & 0o100 else _PLAIN)
        with os.fdopen(descriptor, "wb") as target:
            shutil.copyfileobj(source, target)
        self._files.add(path)

    def _place(self, path: PurePosixPath) -> Path:
        return self._root / path


def _inside(name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise tarfile.TarError(f"{name!r} leads out of the directory")
    return path


def _leading_inside(path: PurePosixPath, target: str) -> str:
    parts = PurePosixPath(target).parts
    up = len(parts) - len([part for part in parts if part != ".."])
    leads_out = target.startswith("/") or up > len(path.parent.parts)
    if leads_out or ".." in parts[up:]:
        raise tarfile.TarError(f"the link {str(path)!r} leads out of the directory, or may")
    return target
