"""matplotlib figures of a cell, as PNG and SVG, shown by plt.show() and at the cell's end."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import io
import os
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

BACKEND = "module://atoll.guest.contexts.figure_backend"
_LARGEST_SVG = 2 << 20


class _SvgTooLarge(Exception):
    """A drawing with so many points that only its PNG is of use."""


class _BoundedText(io.StringIO):
    """Stops a drawing while it is made, not after minutes of work."""

    def write(self, text: str) -> int:
        if self.tell() + len(text) > _LARGEST_SVG:
            raise _SvgTooLarge
        return super().write(text)


def figure_bundle(figure: Any) -> dict[str, Any]:
    """A figure as PNG, SVG (if it is not larger than 2 MiB) and text."""
    data: dict[str, Any] = {"text/plain": repr(figure), "image/png": figure_png(figure)}
    drawing = figure_svg(figure)
    if drawing is not None:
        data["image/svg+xml"] = drawing
    return data


def is_figure(value: object) -> bool:
    """True for a matplotlib figure."""
    module: Any = sys.modules.get("matplotlib.figure")
    return module is not None and isinstance(value, module.Figure)


def figure_png(figure: Any) -> bytes:
    """A figure as PNG."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png", bbox_inches="tight", dpi="figure")
    return picture.getvalue()


def figure_svg(figure: Any) -> str | None:
    """A figure as SVG, or None if that would be larger than 2 MiB."""
    drawing = _BoundedText()
    try:
        figure.savefig(drawing, format="svg", bbox_inches="tight")
    except _SvgTooLarge:
        return None
    return drawing.getvalue()


def publish_open_figures(publish: Callable[[dict[str, Any], bool], None]) -> None:
    """Show every open figure and close it."""
    pyplot: Any = sys.modules.get("matplotlib.pyplot")
    if pyplot is None or not hasattr(pyplot, "get_fignums"):
        return
    numbers = pyplot.get_fignums()
    if not numbers:
        return
    try:
        for number in numbers:
            figure = pyplot.figure(number)
            # An empty figure is one that a later line would have drawn on.
            if figure.get_axes() or figure.texts or figure.images or figure.patches:
                publish(figure_bundle(figure), False)
    finally:
        pyplot.close("all")


class BackendFinder(importlib.abc.MetaPathFinder):
    """Sets our backend as soon as a cell imports matplotlib.

    MPLBACKEND in the environment would do it too, but would break Python programs that a cell
    starts, which cannot import our backend.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Only ever answers for matplotlib itself, by what the other finders say."""
        if fullname != "matplotlib" or os.environ.get("MPLBACKEND"):
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            loader: Any = spec.loader
            execute = loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                use_backend(module)

            loader.exec_module = exec_module
        return spec


def use_backend(matplotlib: Any) -> None:
    """Make ours the backend of an imported matplotlib."""
    matplotlib.rcParams["backend"] = BACKEND


def follow_imports() -> None:
    """Use our backend now, or when matplotlib is imported."""
    matplotlib = sys.modules.get("matplotlib")
    if matplotlib is not None:
        use_backend(matplotlib)
    elif not any(isinstance(finder, BackendFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, BackendFinder())


def forget_fonts() -> None:
    """In a zygote: close the fonts that were drawn with, as matplotlib does in each of its forks.

    There it costs them a millisecond, and none has an open font to gain by it.
    """
    manager: Any = sys.modules.get("matplotlib.font_manager")
    clear = getattr(getattr(manager, "_get_font", None), "cache_clear", None)
    if clear is not None:
        clear()
