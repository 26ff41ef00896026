"""The `atoll` command: its groups, each in a module of its own, and the options before them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from atoll.cli import attack, bench, clean, copy, doctor, processes, run, shell, templates
from atoll.cli.settings import Settings

app = typer.Typer(
    name="atoll",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version  # slow to import

        typer.echo(f"atoll {version('atoll')}")
        raise typer.Exit()


@app.callback()
def atoll(
    context: typer.Context,
    data_dir: Annotated[
        Path | None,
        typer.Option(metavar="DIR", envvar="ATOLL_DATA_DIR", help="Where Atoll keeps its data."),
    ] = None,
    launcher: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            envvar="ATOLL_LAUNCHER",
            help="namespaces, bubblewrap or seatbelt. Default: the first that works here.",
        ),
    ] = None,
    version_wanted: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_show_version, help="Print the version."),
    ] = False,
) -> None:
    """Run code you do not trust in sandboxes that start in milliseconds."""
    context.obj = Settings(data_dir, launcher)


app.command("run")(run.run)
app.command("shell")(shell.shell)
app.command("exec")(processes.exec_command)
app.command("ps")(processes.ps)
app.command("kill")(processes.kill)
app.command("cp")(copy.cp)
app.add_typer(templates.group, name="template")
app.add_typer(bench.group, name="bench")
app.command("doctor")(doctor.doctor)
app.command("attack")(attack.attack)
app.command("clean")(clean.clean)
