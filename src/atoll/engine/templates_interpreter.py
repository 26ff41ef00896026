"""Which Python a machine-derived template runs on, and where it is seen inside."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from atoll.engine.skeleton import SYSTEM_PYTHON
from atoll.model import Layer, TemplateError

LAID_PYTHON = "/opt/atoll/base-python"
"""Where an installation that no sandbox would see otherwise (one below a home) is laid."""

OLDEST, NEWEST = (3, 11), (3, 14)
"""Versions for which every pinned package has a wheel."""

_VISIBLE = (Path("/usr"), Path("/opt"))


@dataclass(frozen=True)
class Interpreter:
    """A Python on the machine that sandboxes can see.

    Attributes:
        host: how it is run here.
        inside: how it is run in a sandbox.
        version: major and minor.
        layer: what must be laid for `inside` to be there; None if it is anyway.
    """

    host: Path
    inside: Path
    version: tuple[int, int]
    layer: Layer | None = None

    @property
    def name(self) -> str:
        """Such as ``python3.12``."""
        return f"python{self.version[0]}.{self.version[1]}"


def system_interpreter(path: Path = SYSTEM_PYTHON) -> Interpreter | None:
    """The machine's own Python, or None where there is none."""
    version = _version(path)
    return None if version is None else Interpreter(path, path, version)


def own_interpreter() -> Interpreter:
    """The Python that Atoll itself runs on, outside any virtual environment."""
    prefix = Path(sys.base_prefix).resolve()
    version = sys.version_info[:2]
    program = prefix / "bin" / f"python{version[0]}.{version[1]}"
    if any(parent in program.parents for parent in _VISIBLE):
        return Interpreter(program, program, version)
    inside = Path(LAID_PYTHON, "bin", program.name)
    return Interpreter(program, inside, version, Layer(LAID_PYTHON, (prefix,)))


def choose_interpreter(wanted: str | None = None) -> Interpreter:
    """The Python of the default template.

    The machine's own comes first, because it is seen inside as it is; where it is missing, too
    old, or lacks a part of the standard library, the one that Atoll runs on is laid beside it.

    Args:
        wanted: ``system``, ``own`` or None for this order; `ATOLL_PYTHON` says it for a process.

    Raises:
        TemplateError: neither will do.
    """
    wanted = wanted or os.environ.get("ATOLL_PYTHON")
    if wanted not in (None, "system", "own"):
        raise TemplateError(f"ATOLL_PYTHON is {wanted!r}", hint="set it to system or own")
    found = [i for i in (system_interpreter(), own_interpreter()) if i is not None]
    if wanted:
        found = [found[-1]] if wanted == "own" else [i for i in found if i.host == SYSTEM_PYTHON]
    for interpreter in found:
        if OLDEST <= interpreter.version <= NEWEST and _is_whole(interpreter):
            return interpreter
    seen = ", ".join(f"{i.host} ({i.version[0]}.{i.version[1]})" for i in found) or "none"
    raise TemplateError(
        f"code-interpreter needs Python 3.{OLDEST[1]} to 3.{NEWEST[1]}; found: {seen}",
        hint="install one, or use the template base",
    )


def _version(path: Path) -> tuple[int, int] | None:
    if not os.access(path, os.X_OK):
        return None
    match = re.fullmatch(r"python(\d)\.(\d+)", path.resolve().name)
    if match:
        return int(match[1]), int(match[2])
    program = "import sys; print(*sys.version_info[:2])"
    answer = subprocess.run([path, "-I", "-S", "-c", program], capture_output=True, check=False)
    words = answer.stdout.split()
    return (int(words[0]), int(words[1])) if len(words) == 2 else None


def _is_whole(interpreter: Interpreter) -> bool:
    # Minimal system images split the standard library; IPython and pip need all of these.
    if interpreter.host != SYSTEM_PYTHON:
        return True
    library = Path("/usr/lib", interpreter.name)
    library64 = Path("/usr/lib64", interpreter.name)
    needed = ("ssl.py", "sqlite3", "ctypes", "zipfile.py", "asyncio", "venv")
    return any(
        all((d / name).exists() or (d / name.removesuffix(".py")).exists() for name in needed)
        for d in (library, library64)
    )
