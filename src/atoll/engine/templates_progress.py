"""How far the build of a template is, and the progress bar that shows it on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


@dataclass(frozen=True)
class BuildProgress:
    """One step of a build.

    Attributes:
        phase: what is being done, in a few words.
        done: how many of `total` are done in this phase.
        total: how many there are; 0 where nobody knows.
        detail: what it is busy with now.
    """

    phase: str
    done: int = 0
    total: int = 0
    detail: str = ""


Report = Callable[[BuildProgress], None]


def no_report(progress: BuildProgress) -> None:
    """Show nothing."""


@contextmanager
def terminal_report(title: str, console: Console | None = None) -> Iterator[Report]:
    """A bar per phase on standard error, or a plain line where that is no terminal."""
    console = console or Console(file=sys.stderr)
    columns = (
        TextColumn("{task.description:<28}"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("[dim]{task.fields[detail]}"),
    )
    bars: dict[str, int] = {}
    console.print(f"Building {title} (once)")
    with Progress(*columns, console=console, disable=not console.is_terminal) as display:

        def report(progress: BuildProgress) -> None:
            total = progress.total or None
            if progress.phase not in bars:
                if display.disable:
                    console.print(f"  {progress.phase} ...", highlight=False)
                for finished in display.tasks:
                    display.update(
                        finished.id, completed=finished.total or 1, total=finished.total or 1
                    )
                bars[progress.phase] = display.add_task(progress.phase, total=total, detail="")
            task = display.task_ids[list(bars).index(progress.phase)]
            display.update(task, completed=progress.done, total=total, detail=progress.detail[:40])

        yield report
        for task_id in display.task_ids:
            display.update(task_id, detail="")


@contextmanager
def automatic_report(title: str) -> Iterator[Report]:
    """A bar if somebody looks at standard error, else nothing."""
    if sys.stderr.isatty():
        with terminal_report(title) as report:
            yield report
    else:
        yield no_report
