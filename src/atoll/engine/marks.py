"""Marks by which the guest knows what a command or a context has started (see guest/marks.py)."""

from __future__ import annotations

import secrets

_BITS = 48


def new_mark() -> int:
    """One that nothing else has, also in another life of this owner."""
    return secrets.randbelow((1 << _BITS) - 1) + 1
