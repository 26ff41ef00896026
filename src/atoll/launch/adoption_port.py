"""The port of launchers whose sandboxes can outlive the process that launched them. Optional."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from atoll.launch.port import LaunchedSandbox
from atoll.model import SandboxSpec


@dataclass(frozen=True)
class Held:
    """What it takes to know a sandbox again in another process.

    Attributes:
        state: what JSON can say of it.
        fds: its descriptors: of `hold` still the sandbox's, of `adopt` the launcher's from then on.
    """

    state: dict[str, Any]
    fds: tuple[int, ...]


@runtime_checkable
class Adopts(Protocol):
    """A launcher whose sandboxes can outlive the process that launched them."""

    def hold(self, sandbox: LaunchedSandbox) -> Held:
        """What another process, with a launcher of the same owner, needs to adopt `sandbox`."""

    async def adopt(self, spec: SandboxSpec, held: Held) -> LaunchedSandbox:
        """The sandbox of a former process. Raises SandboxDied: it is gone."""

    async def settle(self) -> None:
        """Remove what a former process of this owner left and nobody adopted."""
