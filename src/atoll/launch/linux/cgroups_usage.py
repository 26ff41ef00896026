"""What a cgroup counts, and in which file of which controller the kernel says it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Gauge:
    """One number: the whole of `file`, or what stands behind `key` in it.

    Attributes:
        unit: what to divide by.
    """

    controller: str
    file: str
    key: bytes = b""
    unit: float = 1


@dataclass(frozen=True)
class CgroupUsage:
    """What a sandbox's processes use. Sizes in bytes, times in seconds; None: nothing counts it."""

    cpu_time: float | None = None
    memory: int | None = None
    memory_peak: int | None = None
    memory_cache: int | None = None
    pids: int | None = None
    throttled_periods: int | None = None
    throttled_time: float | None = None
    oom_kills: int | None = None


def read_usage(
    gauges: Mapping[str, Gauge], read: Callable[[str, str], bytes | None]
) -> CgroupUsage:
    """Read all `gauges`, each file once; `read` gets controller and file."""
    files: dict[str, bytes | None] = {}
    found: dict[str, float | int | None] = {}
    for name, gauge in gauges.items():
        if gauge.file not in files:
            files[gauge.file] = read(gauge.controller, gauge.file)
        number = _number(files[gauge.file], gauge.key)
        found[name] = number if number is None or gauge.unit == 1 else number / gauge.unit
    return CgroupUsage(**found)  # type: ignore[arg-type] # whole where the unit is 1


def _number(content: bytes | None, key: bytes) -> int | None:
    if content is None or not key:
        return None if content is None else int(content)
    content = b"\n" + content
    start = content.find(b"\n" + key + b" ")
    if start < 0:
        return None
    start += len(key) + 2
    end = content.find(b"\n", start)
    return int(content[start : end if end >= 0 else None])
