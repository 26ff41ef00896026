"""A small tree of files as a value: what it holds, what it is called, and how it is written."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Plan:
    """Directories, files and links of a tree, by path relative to its root.

    Attributes:
        directories: path to mode.
        files: path to content (bytes, or a file of the machine to copy) and mode.
        links: path to target.
        owners: path to uid and gid, for what is not the builder's own; needs root.
        whiteouts: paths that hide what a lower layer has there.
    """

    directories: dict[str, int] = field(default_factory=dict)
    files: dict[str, tuple[bytes | Path, int]] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    owners: dict[str, int] = field(default_factory=dict)
    whiteouts: tuple[str, ...] = ()

    def digest(self) -> str:
        """Hash of all that is in it; a copied file counts by path, size and time of change."""
        owners = self.owners if _can_give_away() else {}
        parts: list[object] = [sorted(self.directories.items()), sorted(self.links.items())]
        parts += [sorted(owners.items()), sorted(self.whiteouts), *self._file_signatures()]
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]

    def _file_signatures(self) -> Iterator[object]:
        for name, (content, mode) in sorted(self.files.items()):
            if isinstance(content, Path):
                status = content.stat()
                yield name, mode, status.st_size, status.st_mtime_ns
            else:
                yield name, mode, hashlib.sha256(content).hexdigest()

    def write(self, root: Path) -> None:
        """Write it below `root`, with the modes as stated whatever the umask is."""
        for name in sorted(self.directories):
            (root / name).mkdir(parents=True, exist_ok=True)
        for name, (content, mode) in self.files.items():
            target = root / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, Path):
                shutil.copyfile(content, target)
            else:
                target.write_bytes(content)
            target.chmod(mode)
        for name, destination in self.links.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).symlink_to(destination)
        for name in self.whiteouts:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            # Linux 5.8 and later let every account make device 0:0, overlayfs's whiteout.
            os.mknod(root / name, stat.S_IFCHR, os.makedev(0, 0))
        open_to_readers(root)
        for name, mode in self.directories.items():
            (root / name).chmod(mode)
        if _can_give_away():
            for name, owner in self.owners.items():
                os.chown(root / name, owner, owner, follow_symlinks=False)


def open_to_readers(root: Path) -> None:
    """Make every directory below `root` readable to all, as system directories are."""
    root.chmod(0o755)
    for directory, names, _ in os.walk(root):
        for name in names:
            path = Path(directory, name)
            if not path.is_symlink():
                path.chmod(0o755)


def _can_give_away() -> bool:
    # chown(2) to another uid needs CAP_CHOWN; without it the launcher maps the builder's own uid.
    return os.geteuid() == 0
