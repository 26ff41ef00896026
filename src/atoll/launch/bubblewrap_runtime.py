"""What each sandbox of `bubblewrap` brings along: an interpreter for the guest, and bwrap.

The guest is started by exec, so it needs a Python inside every root, also in one that has none, or
another C library. So a small copy of Atoll's own interpreter is made once in the data directory,
with its dynamic loader and libraries, and started through that loader; nothing of the template is
used. It is seen inside through an overlay, never through a bind, and holds no sockets. bwrap is
copied too, because the account that builds a sandbox may not be able to enter the place where the
original lies.

    <runtime>/guest   seen as /.atoll: entry.py, atoll/guest/, python/{bin,lib,loader}
    <runtime>/tools   bwrap, its loader and libraries: for the host side only
    <runtime>/empty   second lower of the read-only overlay, which wants two
"""

from __future__ import annotations

import compileall
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from atoll.launch.bubblewrap_find import Bwrap
from atoll.model import GUEST_DIRECTORY, LauncherUnavailable

LOADER = "loader"
_PACKAGE = Path(__file__).parents[1]
_ENTRY = Path(__file__).with_name("bubblewrap_entry.py")
_LDD_SECONDS = 20.0
# Not for a guest: tests, tools to build and teach Python, windows on a screen.
_LEFT_OUT = """
test tests idlelib tkinter turtledemo turtle.py ensurepip lib2to3 pydoc_data distutils
site-packages dist-packages venv unittest sqlite3 xmlrpc wsgiref dbm curses
"""
_LEFT_OUT_PATTERN = re.compile(
    r"config-.*|_tkinter\..*|_sqlite3\..*|_curses.*|_test.*|_dbm.*|_gdbm.*"
)
_LINE = re.compile(r"\s*(?:(\S+) => )?(/\S+) \(0x[0-9a-f]+\)")


@dataclass(frozen=True)
class Runtime:
    """A finished runtime directory."""

    directory: Path

    @property
    def bwrap(self) -> tuple[str, ...]:
        """The command that starts bwrap, relative to the directory."""
        return (f"tools/{LOADER}", "--library-path", "tools", "tools/bwrap")

    @property
    def guest(self) -> tuple[str, ...]:
        """The command that starts the guest's entry, as seen inside."""
        python = f"{GUEST_DIRECTORY}/python"
        library = f"{python}/libraries"
        return (
            *(f"{python}/{LOADER}", "--library-path", library, f"{python}/bin/python"),
            *("-I", "-S", "-B", f"{GUEST_DIRECTORY}/entry.py"),
        )


def build(data_dir: Path, bwrap: Bwrap) -> Runtime:
    """The runtime for this interpreter, this guest and this bwrap; made if it is not there yet.

    Raises:
        LauncherUnavailable: the interpreter's or bwrap's libraries could not be found.
    """
    home = data_dir / "bubblewrap"
    target = home / _key(bwrap)
    if not target.is_dir():
        home.mkdir(parents=True, exist_ok=True, mode=0o755)
        scratch = Path(tempfile.mkdtemp(prefix="new-", dir=home))
        try:
            scratch.chmod(0o755)
            _fill(scratch, bwrap)
            scratch.rename(target)
        except OSError as error:
            # Another engine was quicker: its directory has the same content.
            if not target.is_dir():
                raise LauncherUnavailable(f"the guest's runtime cannot be made: {error}") from error
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return Runtime(target)


def _key(bwrap: Bwrap) -> str:
    digest = hashlib.sha256()
    sources = [_ENTRY, *_guest_sources(), Path(os.path.realpath(sys.executable)), bwrap.path]
    for path in sources:
        info = path.stat()
        digest.update(f"{path} {info.st_size} {info.st_mtime_ns}\n".encode())
    return f"runtime-{digest.hexdigest()[:16]}"


def _guest_sources() -> list[Path]:
    return sorted(
        path
        for path in (_PACKAGE / "guest").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    )


def _fill(scratch: Path, bwrap: Bwrap) -> None:
    guest, tools = scratch / "guest", scratch / "tools"
    python = guest / "python"
    for directory in (tools, python / "bin", python / "libraries", scratch / "empty"):
        directory.mkdir(parents=True)
    _copy(bwrap.path, tools / "bwrap")
    _copy_libraries([bwrap.path], tools, tools / LOADER)
    _copy_python(python)
    for source in _guest_sources():
        target = guest / "atoll" / source.relative_to(_PACKAGE)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    shutil.copyfile(_ENTRY, guest / "entry.py")
    # Compiled here, because nothing can be written there; what came compiled stays.
    for directory in (guest / "atoll", python):
        compileall.compile_dir(str(directory), quiet=2)
    _open_to_read(scratch)


def _copy_python(python: Path) -> None:
    executable = Path(os.path.realpath(sys.executable))
    stdlib = Path(os.__file__).parent
    library = python / stdlib.relative_to(sys.base_prefix)
    _copy(executable, python / "bin" / "python")
    shutil.copytree(stdlib, library, ignore=_ignored, symlinks=False, dirs_exist_ok=True)
    extensions = sorted((library / "lib-dynload").glob("*.so"))
    _copy_libraries([executable, *extensions], python / "libraries", python / LOADER)


def _ignored(_directory: str, names: list[str]) -> list[str]:
    left_out = _LEFT_OUT.split()
    return [name for name in names if name in left_out or _LEFT_OUT_PATTERN.fullmatch(name)]


def _copy_libraries(programs: Iterable[Path], libraries: Path, loader: Path) -> None:
    found = _needed(programs)
    for name, path in found.items():
        if name.startswith("ld-") or ("musl" in name and path.name.startswith("ld-")):
            _copy(path, loader)
        _copy(path, libraries / name)
    if not loader.exists():
        raise LauncherUnavailable(
            "the dynamic loader of Atoll's interpreter was not found",
            hint="launcher bubblewrap needs an interpreter and a bwrap that are linked dynamically",
        )


def _needed(programs: Iterable[Path]) -> dict[str, Path]:
    """Name to path of every shared library that `programs` load, and of their loader (ldd(1))."""
    command = ["ldd", *map(str, programs)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_LDD_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LauncherUnavailable(f"ldd does not run: {error}") from error
    found: dict[str, Path] = {}
    for line in done.stdout.splitlines():
        match = _LINE.match(line)
        if match:
            path = Path(match[2])
            found.setdefault(Path(match[1]).name if match[1] else path.name, path)
    return found


def _copy(source: Path, target: Path) -> None:
    # copyfile, not copy: no setuid bit, capability or label comes along.
    shutil.copyfile(source, target)
    target.chmod(0o755)


def _open_to_read(directory: Path) -> None:
    for root, _, files in os.walk(directory):
        Path(root).chmod(0o755)
        for name in files:
            path = Path(root) / name
            path.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)
