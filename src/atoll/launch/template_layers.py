"""What every launcher wants of a template's layers before it mounts them."""

from __future__ import annotations

from atoll.model import Template, TemplateError


def require_lowers(template: Template) -> None:
    """Look whether each lower directory is there.

    Raises:
        TemplateError: one is not.
    """
    for layer in template.layers:
        for lower in layer.lowers:
            if not lower.is_dir():
                raise TemplateError(f"template {template.name!r}: {lower} is not a directory")
