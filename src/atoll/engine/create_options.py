"""The keyword arguments of `Engine` and of `Engine.create`, for those who pass them on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypedDict

from atoll.engine.clock import Clock
from atoll.engine.logs.settings import Logging
from atoll.engine.metrics.settings import Monitoring
from atoll.engine.network import NetworkChoice
from atoll.launch import Launcher
from atoll.model import Limits, Mount


class EngineOptions(TypedDict, total=False):
    """See `Engine`, which says what each means."""

    data_dir: Path | str | None
    launcher: str | Launcher | None
    pool: int
    owner: str | None
    clock: Clock | None
    monitoring: Monitoring | None
    logging: Logging | None
    new_id: Callable[[], str]


class CreateOptions(TypedDict, total=False):
    """See `Engine.create`, which says what each means."""

    timeout: float | None
    metadata: dict[str, str] | None
    env: dict[str, str] | None
    limits: Limits | None
    network: NetworkChoice
    mounts: Sequence[Mount]
