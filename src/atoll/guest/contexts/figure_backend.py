"""matplotlib backend of a context: draws with Agg, plt.show() publishes to the running cell.

Loaded by matplotlib itself, by the name in `figures.BACKEND`.
"""

from __future__ import annotations

import builtins
from typing import Any

from matplotlib.backend_bases import FigureManagerBase
from matplotlib.backends.backend_agg import FigureCanvasAgg


class CellFigureManager(FigureManagerBase):  # type: ignore[misc]
    """Shows a figure by display(), which every interpreter of ours puts among the builtins."""

    def show(self) -> None:
        """Publish this figure."""
        _display(self.canvas.figure)

    @classmethod
    def pyplot_show(cls, *, block: bool | None = None) -> None:
        """plt.show(): publish every open figure and close it."""
        from matplotlib import pyplot

        try:
            for number in pyplot.get_fignums():
                _display(pyplot.figure(number))
        finally:
            pyplot.close("all")


class FigureCanvas(FigureCanvasAgg):  # type: ignore[misc]
    """Agg's canvas with our manager."""

    manager_class = CellFigureManager


FigureManager = CellFigureManager


def _display(figure: Any) -> None:
    builtins.display(figure)  # type: ignore[attr-defined]
