"""Waiting for what nobody announces; where there is an event, await that."""

from __future__ import annotations

import inspect
import time
from collections.abc import Awaitable, Callable

import anyio

_STEP = 0.005


async def eventually(
    condition: Callable[[], bool | Awaitable[bool]], seconds: float = 10.0
) -> None:
    """Wait until `condition` holds. Raises TimeoutError."""
    with anyio.fail_after(seconds):
        while True:
            holds = condition()
            if await holds if inspect.isawaitable(holds) else holds:
                return
            await anyio.sleep(_STEP)


def eventually_holds(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    """As `eventually` where there is no event loop; False if it never held, to be asserted."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(_STEP)
    return True
