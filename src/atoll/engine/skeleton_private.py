"""Keeps out of machine-derived templates what not every account of the machine may read.

A sandbox's root is mapped to the owner of the machine's files, so permission bits alone would not
keep it from a key that an administrator has put below /opt with mode 0600. /usr outside
/usr/local holds what packages brought, which is public.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from atoll.engine.skeleton_plan import Plan
from atoll.engine.templates_store import build_once

ADMINISTRATORS_OWN = ("usr/local", "opt")
"""Where administrators put what did not come from the system's packages (hier(7))."""

_ENTER_AND_READ = stat.S_IROTH | stat.S_IXOTH


def is_open(directory: Path) -> bool:
    """True if every account may list and enter it."""
    return directory.stat().st_mode & _ENTER_AND_READ == _ENTER_AND_READ


def private_paths(top: Path) -> list[Path]:
    """`top` itself, or the files and directories below it, that are closed to other accounts.

    Costs about 5 microseconds an entry; what is below a closed directory is not looked at.
    """
    if not is_open(top):
        return [top]
    found: list[Path] = []
    pending = [top]
    while pending:
        directory = pending.pop()
        try:
            entries = list(os.scandir(directory))
        except OSError:
            found.append(directory)
            continue
        for entry in entries:
            mode = entry.stat(follow_symlinks=False).st_mode
            if stat.S_ISLNK(mode):
                continue
            if stat.S_ISDIR(mode) and mode & _ENTER_AND_READ == _ENTER_AND_READ:
                pending.append(Path(entry.path))
            elif stat.S_ISDIR(mode) or not mode & stat.S_IROTH:
                found.append(Path(entry.path))
    return sorted(found)


def hiding_layer(parent: Path, machine: Path, name: str) -> tuple[Path, ...]:
    """The layer to put over `machine/name` so that nothing private is seen in it; none if none is.

    Args:
        parent: where layers are kept.
        machine: the machine's root.
        name: a program directory, such as ``opt``.
    """
    tops = [machine / top for top in ADMINISTRATORS_OWN if Path(top).is_relative_to(name)]
    found = [path for top in tops if top.is_dir() for path in private_paths(top)]
    if not found:
        return ()
    plan = Plan(whiteouts=tuple(str(path.relative_to(machine / name)) for path in found))
    for path in found:
        for directory in path.relative_to(machine / name).parents:
            status = (machine / name / directory).stat()
            plan.directories[str(directory)] = stat.S_IMODE(status.st_mode)
            if status.st_uid:
                plan.owners[str(directory)] = status.st_uid
    return (build_once(parent, f"hidden-{plan.digest()}", plan.write),)
