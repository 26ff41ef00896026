"""What a sandbox's processes hold in memory, as the kernel accounts it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_KB = 1024
MB = 1e6


@dataclass(frozen=True)
class Memory:
    """Bytes over all processes of a sandbox.

    Attributes:
        private: pages that no other process maps (USS): what one more sandbox costs.
        proportional: private, plus its share of the shared ones (PSS).
    """

    private: int
    proportional: int


def processes_beside(pid: int, proc: Path = Path("/proc")) -> list[int]:
    """Every process in the pid namespace of `pid`, itself included."""
    wanted = (proc / str(pid) / "ns" / "pid").readlink()
    found = []
    for entry in proc.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if (entry / "ns" / "pid").readlink() == wanted:
                found.append(int(entry.name))
        except OSError:
            continue  # it ended meanwhile, or it is not ours to look at
    return found


def memory_of(pids: list[int], proc: Path = Path("/proc")) -> Memory:
    """Sum of /proc/PID/smaps_rollup (proc_pid_smaps(5)) over `pids`."""
    private = proportional = 0
    for pid in pids:
        for line in (proc / str(pid) / "smaps_rollup").read_text().splitlines()[1:]:
            name, _, rest = line.partition(":")
            if name in ("Private_Clean", "Private_Dirty"):
                private += int(rest.split()[0]) * _KB
            elif name == "Pss":
                proportional += int(rest.split()[0]) * _KB
    return Memory(private, proportional)


def available() -> int:
    """MemAvailable of the machine, in bytes."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * _KB
    raise RuntimeError("/proc/meminfo has no MemAvailable")
