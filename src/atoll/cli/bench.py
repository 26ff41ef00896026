"""`atoll bench`: measure this machine and say whether the targets are met."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from atoll.cli import terminal
from atoll.cli.settings import AsJson, settings_of

group = typer.Typer(help="Measure Atoll here.", no_args_is_help=True, rich_markup_mode=None)


@group.callback()
def bench() -> None:
    """Measure Atoll on this machine, beside its peers in the same run."""


@group.command("engine")
def engine(
    context: typer.Context,
    quick: Annotated[
        bool, typer.Option("--quick", help="A tenth of the rounds: a look, not a measurement.")
    ] = False,
    alive: Annotated[
        int, typer.Option(metavar="N", min=0, help="Also hold N sandboxes at once (1000).")
    ] = 0,
    only: Annotated[
        list[str] | None, typer.Option(metavar="ROW", help="Measure only this row's part.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write the JSON and latest.md there.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Exit with 1 if a target is missed.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Measure every row of the engine's table.

    Each row runs in turn with its peers, so that both see the same machine. The first rounds are
    thrown away. It takes some minutes; --quick takes about one.
    """

    async def work() -> int:
        from atoll.bench import BenchOptions, markdown, run_engine, save
        from atoll.bench.report import as_json as report_as_json

        settings = settings_of(context)
        with terminal.progress("Measuring") as tell:
            report = await run_engine(
                BenchOptions(
                    quick=quick,
                    alive=alive,
                    data_dir=settings.data_dir,
                    launcher=settings.launcher,
                    only=tuple(only or ()),
                    tell=lambda row: tell(row, None),
                )
            )
        if output is not None:
            for path in save(report, output):
                terminal.note(f"wrote {path}")
        if as_json:
            terminal.print_json(report_as_json(report))
        else:
            typer.echo(markdown(report), nl=False)
        missed = report.missed()
        for line in missed:
            terminal.note(f"target missed: {line}")
        return 1 if missed and check else 0

    raise typer.Exit(terminal.finish(work, as_json=as_json))
