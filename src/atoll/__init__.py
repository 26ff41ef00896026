"""Atoll: sandboxes for untrusted code, forked from a warmed zygote in milliseconds."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atoll.engine import Engine, Sandbox, SyncEngine, SyncSandbox
    from atoll.model import AtollError, Limits, Template

__all__ = ["AtollError", "Engine", "Limits", "Sandbox", "SyncEngine", "SyncSandbox", "Template"]

_HOME = {"AtollError": "atoll.model", "Limits": "atoll.model", "Template": "atoll.model"}


def __getattr__(name: str) -> Any:
    # Lazy (PEP 562): `import atoll` costs nothing until a name is used.
    if name not in __all__:
        raise AttributeError(f"module 'atoll' has no attribute {name!r}")
    return getattr(import_module(_HOME.get(name, "atoll.engine")), name)
