"""The proxy through which connections leave sandboxes: policy, names, bytes."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atoll.egress.client import Egress

__all__ = ["Egress"]


def __getattr__(name: str) -> Any:
    # Lazy (PEP 562): an engine whose sandboxes have no network loads none of it.
    if name not in __all__:
        raise AttributeError(f"module 'atoll.egress' has no attribute {name!r}")
    return getattr(import_module("atoll.egress.client"), name)
