"""What several tests of the engine wait for and count."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anyio


def open_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait for what nobody announces."""
    with anyio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110
            await anyio.sleep(0.005)
