"""The command line of bwrap for one sandbox. Pure: no file is looked at, nothing is started.

Everything that bwrap is told to mount lies in the stage: a tmpfs in a mount namespace of the
builder, laid out by `bubblewrap_stage`. So no name of the host is on the command line, and what a
process list shows of a sandbox is its shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from atoll.launch.linux.guest_rights import (
    GUEST_CAPABILITIES,
    GUEST_CAPABILITY_NUMBERS,
    MASKED,
    MASKED_DIRECTORIES,
)
from atoll.model import GUEST_DIRECTORY, InvalidPath, Mount, Template

STAGE = "/tmp"  # noqa: S108 - in the builder's own mount namespace, under a tmpfs of its own
"""Where the stage is: bwrap wants this directory to exist anyway."""

CHANNEL, INNER_USERNS, OUTER_FILTER, INNER_FILTER = 3, 4, 5, 6
"""Descriptors that bwrap is started with; the guest's entry closes all but the channel."""

DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
"""What --dev shows of the machine's devices (bwrap(1))."""

_RESERVED = ("/proc", "/dev", "/sys", GUEST_DIRECTORY)


@dataclass(frozen=True)
class Shape:
    """What the command line depends on.

    Attributes:
        template: for its layers; the host paths in it are not used.
        hostname: as seen inside.
        mounts: what the caller hands in.
        guest: the command that bwrap runs, as seen inside.
        guest_lowers: which lowers of the root have a /.atoll, topmost first; ours goes on top.
        masked: those of `MASKED` and `MASKED_DIRECTORIES` that this kernel's /proc has.
    """

    template: Template
    hostname: str
    mounts: tuple[Mount, ...]
    guest: tuple[str, ...]
    guest_lowers: tuple[int, ...] = ()
    masked: tuple[str, ...] = MASKED


def arguments(shape: Shape) -> list[str]:
    """All arguments after the program's name."""
    return [
        *_namespaces(shape.hostname),
        *_capabilities(),
        *_root(shape.template),
        *_guest(shape.guest_lowers),
        *_proc(shape.masked),
        *_devices(),
        *_mounts(shape.mounts),
        *("--chdir", "/"),
        *("--add-seccomp-fd", str(OUTER_FILTER), "--add-seccomp-fd", str(INNER_FILTER)),
        *("--", *shape.guest, f"{GUEST_CAPABILITIES:x}"),
    ]


def check_mounts(mounts: Sequence[Mount]) -> None:
    """Refuse what would lie over a wall.

    Raises:
        InvalidPath: a target that is not a plain absolute path, or is one of the sandbox's own.
    """
    for mount in mounts:
        parts = mount.target.split("/")
        plain = mount.target.startswith("/") and not {"", ".", ".."} & set(parts[1:])
        if not plain or "\0" in mount.target:
            raise InvalidPath(f"{mount.target!r} is not a plain absolute path to mount at")
        if f"/{parts[1]}" in _RESERVED:
            raise InvalidPath(f"nothing can be mounted at {mount.target}: it is the sandbox's own")


def bound(shape: Shape) -> dict[str, bool]:
    """Mounts that are neither the root's nor the kernel's own: place to "is read-only"."""
    devices = {f"/dev/{name}": False for name in DEVICES}
    masks = {f"/proc/{name}": name in MASKED_DIRECTORIES for name in shape.masked}
    return devices | masks | {mount.target: mount.read_only for mount in shape.mounts}


def _namespaces(hostname: str) -> list[str]:
    # User and network namespaces are made by the builder: bwrap alone cannot give a sandbox a
    # user namespace that owns none of the others, nor set anything in its network namespace.
    return [
        *("--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup"),
        *("--userns2", str(INNER_USERNS), "--assert-userns-disabled"),
        *("--as-pid-1", "--die-with-parent", "--new-session"),
        *("--hostname", hostname, "--clearenv"),
    ]


def _capabilities() -> list[str]:
    words = ["--cap-drop", "ALL"]
    for name in GUEST_CAPABILITY_NUMBERS:
        words += ["--cap-add", f"CAP_{name}"]
    return words


def _root(template: Template) -> list[str]:
    words: list[str] = []
    for place, sources in zip(template.layers, layer_sources(template), strict=True):
        number = template.layers.index(place)
        for source in reversed(sources):
            words += ["--overlay-src", source]
        words += ["--overlay", f"{STAGE}/rw/{number}u", f"{STAGE}/rw/{number}w", place.mountpoint]
    return words


def _guest(lowers: Sequence[int]) -> list[str]:
    # A read-only overlay wants two sources.
    words = ["--overlay-src", f"{STAGE}/runtime/empty"]
    for number in reversed(lowers):
        words += ["--overlay-src", f"{STAGE}/l{number}{GUEST_DIRECTORY}"]
    return [*words, "--overlay-src", f"{STAGE}/runtime/guest", "--ro-overlay", GUEST_DIRECTORY]


def layer_sources(template: Template) -> list[list[str]]:
    """For each layer, where its lowers are in the stage, topmost first."""
    sources, number = [], 0
    for layer in template.layers:
        sources.append([f"{STAGE}/l{number + i}" for i in range(len(layer.lowers))])
        number += len(layer.lowers)
    return sources


def _proc(masked: Sequence[str]) -> list[str]:
    words = ["--proc", "/proc"]
    for name in masked:
        place = f"/proc/{name}"
        if name in MASKED_DIRECTORIES:
            words += ["--perms", "0555", "--size", "4096", "--tmpfs", place, "--remount-ro", place]
        else:
            words += ["--dev-bind", "/dev/null", place]
    return words


def _devices() -> list[str]:
    # bwrap's /dev is a tmpfs of half the machine's memory: written to by nobody, so read-only.
    return [
        *("--dev", "/dev", "--dir", "/dev/mqueue"),
        *("--bind", f"{STAGE}/shm", "/dev/shm"),  # noqa: S108 - a place inside the sandbox
        *("--remount-ro", "/dev"),
    ]


def _mounts(mounts: Sequence[Mount]) -> list[str]:
    words = []
    for number, mount in enumerate(mounts):
        verb = "--ro-bind" if mount.read_only else "--bind"
        words += [verb, f"{STAGE}/m{number}", mount.target]
    return words
