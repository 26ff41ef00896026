"""What `doctor` looks at: one machine, seen through files that tests can replace."""

from __future__ import annotations

import os
import platform
import re
import resource
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from atoll.launch.linux import walls_probe
from atoll.launch.linux.cgroups_detect import Layout, detect
from atoll.launch.linux.walls_situation import Situation, has_root, situation

Mark = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Check:
    """One finding.

    Attributes:
        verdict: ``fail``: sandboxes, or the limits asked for, cannot be had. ``warn``: they can,
            with something missing. ``ok``.
        seen: what was found.
        fix: the exact thing to do about it; empty if there is nothing to do.
    """

    name: str
    verdict: Mark
    seen: str
    fix: str = ""


@dataclass(frozen=True)
class Machine:
    """One machine and this process's place on it.

    Attributes:
        root: where /proc, /sys and /etc are looked up.
        probes: what `walls_probe.run` answered; empty where nothing was tried.
        executable: the interpreter that builds sandboxes.
        prefix: its environment; an interpreter below it belongs to Atoll alone.
        open_files: the hard limit of descriptors, None for none.
    """

    root: Path
    probes: Mapping[str, str]
    layout: Layout
    situation: Situation
    is_root: bool
    machine: str = platform.machine()
    executable: Path = Path(sys.executable)
    prefix: Path = Path(sys.prefix)
    open_files: int | None = None
    data_dir: Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def here(cls, data_dir: Path | None = None) -> Machine:
        """This machine, with everything tried (some 60 ms)."""
        root = Path("/")
        layout = detect(root)
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        return cls(
            root=root,
            probes=walls_probe.run(),
            layout=layout,
            situation=situation(root, layout),
            is_root=has_root(root),
            executable=Path(os.path.realpath(sys.executable)),
            open_files=None if hard == resource.RLIM_INFINITY else hard,
            data_dir=data_dir,
            environment=dict(os.environ),
        )

    def text(self, path: str) -> str | None:
        """The content of a file below `root`, stripped; None if it cannot be read."""
        try:
            return (self.root / path).read_text(errors="replace").strip()
        except OSError:
            return None

    def sysctl(self, name: str) -> int | None:
        """A numeric sysctl such as ``user.max_user_namespaces``; None where there is none."""
        text = self.text("proc/sys/" + name.replace(".", "/"))
        return int(text) if text and re.fullmatch(r"-?\d+", text) else None

    def exists(self, path: str) -> bool:
        """Whether there is a file below `root`."""
        return (self.root / path).exists()

    @property
    def kernel(self) -> str:
        """The kernel's release."""
        return self.text("proc/sys/kernel/osrelease") or ""

    @property
    def is_wsl(self) -> bool:
        """Whether this is the Windows Subsystem for Linux."""
        return "microsoft" in self.kernel.lower()

    @property
    def container(self) -> str:
        """The kind of container we are in, or "" if none shows."""
        if self.exists(".dockerenv"):
            return "Docker"
        if self.exists("run/.containerenv"):
            return "Podman"
        if "KUBERNETES_SERVICE_HOST" in self.environment:
            return "Kubernetes"
        if kind := self.text("run/systemd/container") or self.environment.get("container", ""):
            return kind
        masked = [point for point in self.covered_proc() if point != "/proc/sys"]
        return "a container engine" if masked else ""

    def covered_proc(self) -> list[str]:
        """Mount points over parts of /proc, which forbid to mount a new one in a user namespace."""
        points = []
        for line in (self.text("proc/self/mountinfo") or "").splitlines():
            point = line.split(" ")[4]
            # An empty directory's mount hides nothing (fs/namespace.c, mnt_already_visible).
            if point.startswith("/proc/") and point != "/proc/sys/fs/binfmt_misc":
                points.append(point)
        return sorted(set(points))
