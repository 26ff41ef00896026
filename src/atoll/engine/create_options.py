"""The keyword arguments of `Engine.create`, for those who pass them on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from atoll.model import Limits, Mount


class CreateOptions(TypedDict, total=False):
    """See `Engine.create`, which says what each means."""

    timeout: float | None
    metadata: dict[str, str] | None
    env: dict[str, str] | None
    limits: Limits | None
    network: str | bool | None
    mounts: Sequence[Mount]
