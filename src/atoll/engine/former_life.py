"""What one process of a named owner tells the next about a sandbox, through the vault."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from atoll.model import Limits, NetworkPolicy, SandboxSpec, Template

_TEMPLATE = ("name", "env", "user", "cwd", "python", "node")
"""Of a template; its layers are mounted already."""


@dataclass(frozen=True)
class FormerLife:
    """One sandbox. Times in seconds since the epoch.

    Attributes:
        launched: what its launcher needs to adopt it.
    """

    spec: SandboxSpec
    launched: dict[str, Any]
    metadata: dict[str, str]
    env: dict[str, str]
    started_at: float
    expires_at: float | None
    paused: bool
    network: NetworkPolicy | None = None

    def as_state(self) -> dict[str, Any]:
        """For JSON."""
        template = {name: getattr(self.spec.template, name) for name in _TEMPLATE}
        return {
            "id": self.spec.id,
            "template": template,
            "limits": asdict(self.spec.limits),
            "launched": self.launched,
            "metadata": self.metadata,
            "env": self.env,
            "started_at": self.started_at,
            "expires_at": self.expires_at,
            "paused": self.paused,
            "network": self.network and self.network.to_mapping(),
        }

    @classmethod
    def of_state(cls, state: dict[str, Any]) -> FormerLife:
        """The inverse of `as_state`."""
        template = Template(layers=(), **state["template"])
        return cls(
            spec=SandboxSpec(state["id"], template, Limits(**state["limits"])),
            launched=state["launched"],
            metadata=state["metadata"],
            env=state["env"],
            started_at=state["started_at"],
            expires_at=state["expires_at"],
            paused=state["paused"],
            network=NetworkPolicy.of(state.get("network")),
        )
