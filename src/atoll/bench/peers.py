"""The programs that the engine is measured beside, started the way their users start them."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass

from atoll.bench.samples import Step, Stopwatch

SYSTEM_PYTHON = "/usr/bin/python3"
IMPORTS = "import numpy, pandas, matplotlib.pyplot"
PODMAN_IMAGE = "docker.io/library/python:3-slim"


@dataclass(frozen=True)
class Peer:
    """One program to start; `why_absent` says why it cannot be measured here."""

    label: str
    argv: tuple[str, ...]
    why_absent: str | None = None

    def step(self) -> Step:
        """Milliseconds from start to exit, with its streams on /dev/null."""

        async def once() -> float:
            return run_once(self.argv)

        return once


def run_once(argv: tuple[str, ...]) -> float:
    """Milliseconds that one run takes. Raises if it fails: a failed run is not a measurement."""
    watch = Stopwatch()
    # No timeout: with one, the standard library polls for the end, at intervals that double up
    # to 50 ms, and the figure would be the interval's.
    subprocess.run(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    return watch.ms


def bare_python() -> Peer:
    """The system's interpreter doing nothing, without any isolation."""
    return Peer("bare python3 -c pass", (SYSTEM_PYTHON, "-c", "pass"))


def bare_imports(python: str | None) -> Peer:
    """The template's own environment importing what its zygote has preloaded."""
    label = f'bare python3 -c "{IMPORTS}"'
    if python is None:
        return Peer(label, (), "the template's environment does not run outside")
    return _tried(Peer(label, (python, "-c", IMPORTS)))


def bubblewrap() -> Peer:
    """bubblewrap around the system's interpreter, every namespace unshared."""
    bwrap = shutil.which("bwrap")
    label = "bwrap + python3 -c pass"
    if not bwrap:
        return Peer(label, (), "bwrap is not installed")
    argv: tuple[str, ...] = (bwrap, "--unshare-all", "--die-with-parent", "--new-session")
    argv += ("--ro-bind", "/usr", "/usr", "--ro-bind-try", "/etc/alternatives", "/etc/alternatives")
    for link in ("bin", "sbin", "lib", "lib64"):
        argv += ("--symlink", f"usr/{link}", f"/{link}")
    argv += ("--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp")  # noqa: S108 (inside bwrap)
    return _tried(Peer(label, (*argv, SYSTEM_PYTHON, "-c", "pass")))


def podman() -> Peer:
    """podman run of the official Python image, if both are here; nothing is pulled."""
    label = f"podman run {PODMAN_IMAGE} python3 -c pass"
    program = shutil.which("podman")
    if not program:
        return Peer(label, (), "podman is not installed")
    argv = (program, "run", "--rm", "--pull=never", "--network=none", PODMAN_IMAGE)
    return _tried(Peer(label, (*argv, "python3", "-c", "pass")))


def _tried(peer: Peer) -> Peer:
    try:
        run_once(peer.argv)
    except (OSError, subprocess.SubprocessError) as error:
        return Peer(peer.label, (), f"it does not run here: {error.__class__.__name__}")
    return peer


def startup_peers() -> tuple[Peer, ...]:
    """Who a new sandbox's first cell is compared with."""
    return (bare_python(), bubblewrap(), podman())
