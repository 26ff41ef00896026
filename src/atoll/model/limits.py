"""Limits of one sandbox, with sizes as an int of bytes or as text like ``"512M"``."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields

from atoll.model.errors import InvalidLimit

Size = int | str

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:I?B)?", re.IGNORECASE)
_FACTOR = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def parse_size(value: Size) -> int:
    """Bytes meant by `value`: an int, or digits with K, M, G or T (powers of 1024).

    Raises:
        InvalidLimit: not a size, or not above zero.
    """
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise InvalidLimit(f"{value!r} is not a size; write bytes or text such as '512M'")
    if isinstance(value, str):
        match = _SIZE.fullmatch(value.strip())
        if not match:
            raise InvalidLimit(f"{value!r} is not a size; write bytes or text such as '512M'")
        value = int(float(match[1]) * _FACTOR[match[2].upper()])
    if value <= 0:
        raise InvalidLimit(f"a size must be above zero, not {value}")
    return value


@dataclass(frozen=True)
class Limits:
    """What one sandbox may use. `None` means: no limit of Atoll's own.

    Attributes:
        memory: RAM in bytes, with its page cache and tmpfs; no swap. Default 512 MiB.
        cpu: CPU cores, as a quota (1.0 is one full core). Default 1.
        pids: processes and threads together. Default 256.
        open_files: descriptors per process (RLIMIT_NOFILE). Default 1024.
        file_size: bytes in one file (RLIMIT_FSIZE). Default 1 GiB.
        disk: bytes that the sandbox's files may take. Default 1 GiB.
        max_processes: commands alive at once, started through the API; more raise
            ProcessLimitReached. Default none.
        wall: seconds from create until the sandbox is killed. Default none.
        cpu_time: CPU seconds, summed over all its processes, until it is killed. Default none.
        output: bytes of stdout and stderr of one command or cell. Default 64 MiB.
    """

    memory: Size | None = "512M"
    cpu: float | None = 1.0
    pids: int | None = 256
    open_files: int | None = 1024
    file_size: Size | None = "1G"
    disk: Size | None = "1G"
    max_processes: int | None = None
    wall: float | None = None
    cpu_time: float | None = None
    output: Size | None = "64M"

    def __post_init__(self) -> None:
        for name in ("memory", "file_size", "disk", "output"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, parse_size(value))
        for name in ("cpu", "wall", "cpu_time"):
            self._check(name, (int, float))
        for name in ("pids", "open_files", "max_processes"):
            self._check(name, (int,))

    def _check(self, name: str, kinds: tuple[type[int] | type[float], ...]) -> None:
        value = getattr(self, name)
        if value is None:
            return
        if isinstance(value, bool) or not isinstance(value, kinds) or not 0 < value < 1 << 53:
            raise InvalidLimit(f"limit {name} must be a number above zero or None, not {value!r}")

    def bytes_of(self, name: str) -> int | None:
        """The size limit `name` in bytes (sizes are parsed when the limits are made)."""
        value = getattr(self, name)
        return None if value is None else int(value)

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """All limit names, in order of declaration."""
        return tuple(f.name for f in fields(cls))
