"""What a launcher is asked to build."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path

from atoll.model.limits import Limits

GUEST_DIRECTORY = "/.atoll"
"""Where the guest's own files are seen, read-only, in every template's root."""


@dataclass(frozen=True)
class Layer:
    """One overlay of a template's root.

    Attributes:
        mountpoint: where it is seen inside, ``/`` first, then e.g. ``/usr``.
        lowers: host directories, topmost first; read-only.
    """

    mountpoint: str
    lowers: tuple[Path, ...]


@dataclass(frozen=True)
class Template:
    """A read-only root filesystem, its defaults, and what its heavy zygote preloads.

    Attributes:
        name: as callers say it.
        layers: the root, as overlays in mount order (``/`` first).
        env: environment of every process.
        user: default user (its passwd entry is in the root).
        cwd: default working directory.
        python: path inside of the Python for contexts, or None.
        node: path inside of Node.js, or None.
        preload: modules that the heavy zygote imports; empty: the standard library is enough,
            and cells run in the plain runner, without IPython.
        rootfs: the directory that the engine makes `layers` from; see `from_rootfs`.
    """

    name: str
    layers: tuple[Layer, ...]
    env: dict[str, str] = field(default_factory=dict)
    user: str = "user"
    cwd: str = "/home/user"
    python: str | None = None
    node: str | None = None
    preload: tuple[str, ...] = ()
    rootfs: Path | None = None

    @classmethod
    def from_rootfs(
        cls,
        path: Path | str,
        *,
        name: str | None = None,
        env: dict[str, str] | None = None,
        preload: tuple[str, ...] = (),
    ) -> Template:
        """A template of any directory that holds a root file system, such as mmdebstrap makes.

        The engine looks at the directory when the first sandbox is made of it: it finds the
        interpreters in it, and lays its own files and a passwd entry for `user` on top.

        Args:
            path: the directory; nothing is ever written to it.
            name: how the template is called; its directory's name and a hash of the path if None.
            env: environment of every process, beside PATH and LANG.
            preload: modules that its Python imports once, for all contexts to come.
        """
        root = Path(path).expanduser().absolute()
        clean = re.sub(r"[^a-z0-9]+", "-", root.name.lower()).strip("-") or "rootfs"
        mark = hashlib.sha256(str(root).encode()).hexdigest()[:8]
        return cls(name or f"{clean}-{mark}", (), dict(env or {}), preload=preload, rootfs=root)


@dataclass(frozen=True)
class Mount:
    """A host path that the caller hands to one sandbox on purpose."""

    source: Path
    target: str
    read_only: bool = True


@dataclass(frozen=True)
class SandboxSpec:
    """One sandbox to build."""

    id: str
    template: Template
    limits: Limits = field(default_factory=Limits)
    env: dict[str, str] = field(default_factory=dict)
    mounts: tuple[Mount, ...] = ()
    hostname: str = "sandbox"
