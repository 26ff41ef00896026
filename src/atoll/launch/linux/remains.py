"""What a dead owner's launcher leaves in the kernel: cgroups, and what still runs in them."""

from __future__ import annotations

from atoll.launch.linux import cgroups
from atoll.launch.linux.cgroups_detect import detect


def reap(owner: str) -> bool:
    """Kill and remove it, wherever the owner ran; False if something is left."""
    return cgroups.reap(owner, detect())
