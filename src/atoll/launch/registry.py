"""Launchers by name, imported only when one is used; and what each can do about a dead owner."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from atoll.launch.port import Launcher
from atoll.model import InvalidArgument, LauncherUnavailable


@dataclass(frozen=True)
class Entry:
    """One launcher.

    Attributes:
        module, factory: where its class is; it is called with (directory, owner=name).
        platform: the `sys.platform` that it works on.
        automatic: whether it may be chosen without being named.
        reap: module whose function `reap(owner)` removes what a dead owner left, if any is needed.
    """

    module: str
    factory: str
    platform: str
    automatic: bool
    reap: str | None = None


_LINUX_REMAINS = "atoll.launch.linux.remains"

LAUNCHERS: dict[str, Entry] = {
    "namespaces": Entry(
        "atoll.launch.linux.namespaces", "NamespacesLauncher", "linux", True, _LINUX_REMAINS
    ),
    "seatbelt": Entry("atoll.launch.seatbelt", "SeatbeltLauncher", "darwin", True),
    "bubblewrap": Entry(
        "atoll.launch.bubblewrap", "BubblewrapLauncher", "linux", False, _LINUX_REMAINS
    ),
    "fake": Entry("atoll.launch.fake", "FakeLauncher", sys.platform, False),
}
"""By name, in the order of the automatic choice. `fake` isolates nothing: it must be named."""


def choose(name: str | None, directory: Path, owner: str) -> Launcher:
    """The launcher `name`, or the first automatic one for this platform.

    There is one automatic choice for each platform and no fall-back behind it: a launcher that
    cannot build a wall refuses, and nothing runs less isolated than was asked.

    Args:
        name: as in LAUNCHERS, or None.
        directory: where the launcher may keep files of this owner.
        owner: names what it makes outside of `directory`, so that it can be found again.

    Raises:
        InvalidArgument: no launcher has this name.
        LauncherUnavailable: it cannot work here.
    """
    if name is None:
        name = next((n for n, e in LAUNCHERS.items() if e.automatic and _fits(e)), None)
        if name is None:
            raise LauncherUnavailable(
                f"no launcher can isolate on {sys.platform}", hint="run it on Linux or macOS"
            )
    entry = LAUNCHERS.get(name)
    if entry is None:
        known = ", ".join(LAUNCHERS)
        raise InvalidArgument(f"no launcher is called {name!r}", hint=f"there are {known}")
    if not _fits(entry):
        raise LauncherUnavailable(f"launcher {name} works on {entry.platform}, not {sys.platform}")
    factory: Callable[..., Launcher] = getattr(import_module(entry.module), entry.factory)
    return factory(directory, owner=owner)


def reap(name: str, owner: str) -> bool:
    """Remove what a dead owner's launcher made outside of its directory; False if some is left."""
    entry = LAUNCHERS.get(name)
    if entry is None or entry.reap is None or not _fits(entry):
        return True
    remove: Callable[[str], bool] = import_module(entry.reap).reap
    return remove(owner)


def _fits(entry: Entry) -> bool:
    return entry.platform == sys.platform
