"""What a sandbox gets from the engine that made it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from atoll.engine.clock import Clock
from atoll.engine.commands import Spawn
from atoll.engine.deadlines import Deadlines
from atoll.engine.network import WayOut
from atoll.engine.observation import Observation
from atoll.engine.vault import Vault
from atoll.launch import Adopts

if TYPE_CHECKING:
    from atoll.engine.sandbox import Sandbox


@dataclass(frozen=True)
class Surroundings:
    """The engine, as far as one of its sandboxes needs it.

    Attributes:
        launcher: the name of what built it.
        spawn: runs work in the engine's task group.
        vault: keeps what a later process of this owner needs; an empty one of unnamed owners.
        observation: measures it, and keeps its log.
        way_out: through which connections leave those that have a network.
        adopts: the launcher, if its sandboxes can outlive this process and shall.
        forget: called once when it is gone, with False if something of it could not be removed.
    """

    launcher: str
    clock: Clock
    deadlines: Deadlines
    spawn: Spawn
    forget: Callable[[Sandbox, bool], None]
    vault: Vault
    observation: Observation
    adopts: Adopts | None
    way_out: WayOut
