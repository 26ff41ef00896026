"""What machine the figures were taken on. Names no host, no user and no path."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

_KIB = 1024


@dataclass(frozen=True)
class Machine:
    """The properties a reader needs to judge a figure."""

    cpu: str
    cores: int
    architecture: str
    memory_bytes: int
    kernel: str
    system: str
    python: str
    launcher: str
    user: str

    def line(self) -> str:
        """One sentence for the head of a table."""
        return (
            f"{self.cpu}, {self.cores} cores, {self.memory_bytes / (1 << 30):.0f} GiB, "
            f"Linux {self.kernel} ({self.architecture}), {self.system}, Python {self.python}, "
            f"launcher {self.launcher}, as {self.user}"
        )

    def slug(self) -> str:
        """A file name's part that says which kind of machine, not which machine."""
        kernel = ".".join(self.kernel.split(".")[:2])
        return f"{self.architecture}-{self.cores}cores-linux{kernel}-{self.user.replace(' ', '-')}"


def _field(path: str, key: str) -> str | None:
    try:
        lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    for line in lines:
        name, _, value = line.replace("=", ":", 1).partition(":")
        if name.strip() == key:
            return value.strip().strip('"')
    return None


def describe(launcher: str) -> Machine:
    """This machine, from /proc, /etc/os-release and the interpreter."""
    memory = _field("/proc/meminfo", "MemTotal") or "0 kB"
    return Machine(
        cpu=_field("/proc/cpuinfo", "model name") or platform.processor() or "unknown CPU",
        cores=len(os.sched_getaffinity(0)),
        architecture=platform.machine(),
        memory_bytes=int(memory.split()[0]) * _KIB,
        kernel=platform.release(),
        system=_field("/etc/os-release", "PRETTY_NAME") or platform.system(),
        python=platform.python_version(),
        launcher=launcher,
        user="root" if os.geteuid() == 0 else "an ordinary user",
    )
