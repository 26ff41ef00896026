"""`atoll attack`: try to break out of a sandbox on this very machine, and say what held."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Annotated

import typer

from atoll.cli import terminal
from atoll.cli.settings import AsJson, settings_of
from atoll.model import InvalidArgument

if TYPE_CHECKING:
    from atoll.testing.attacks import Report

_WIDTH = 96


def attack(
    context: typer.Context,
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME", help="Attacks or sections. Default: all of them."),
    ] = None,
    template: Annotated[
        str, typer.Option(metavar="NAME", help="What attacker and neighbour run.")
    ] = "base",
    contexts: Annotated[
        str | None,
        typer.Option(metavar="TEMPLATE", help="Also attack from contexts of this template."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Attack the walls of this machine and print a verdict for each attempt.

    An attacker, a neighbour and a victim process on the host are set up. An attempt is held if it
    got nothing and none of them took harm. The exit code is 1 if a wall broke.
    """

    async def work() -> int:
        from atoll.testing.attacks import run_suite

        settings = settings_of(context)
        _check_names(names)
        with terminal.progress("Attacking", lines=False) as tell:

            def seen(report: Report) -> None:
                tell(report.attack.name, None)
                if not as_json:
                    typer.echo(line_of(report))

            reports = await run_suite(
                names=names or None,
                launcher=settings.launcher,
                data_dir=settings.data_dir,
                template=template,
                interpreter=contexts,
                on_report=seen,
            )
        return _close(reports, as_json=as_json)

    raise typer.Exit(terminal.finish(work, as_json=as_json))


def _check_names(names: list[str] | None) -> None:
    from atoll.testing.attacks import named

    try:
        named(names or None)
    except KeyError as error:
        sections = ", ".join(sorted({attack.section for attack in named(None)}))
        raise InvalidArgument(
            f"no attack or section is called {error.args[0]!r}", hint=f"sections: {sections}"
        ) from None


def line_of(report: Report) -> str:
    """One line for a wall that held; with what was seen for one that broke, or why not."""
    verdict = report.verdict
    word = ("held" if verdict.made else "-") if verdict.held else "BROKEN"
    line = f"{word:<8}{report.attack.name:<36}{report.attack.question}"
    if verdict.held and verdict.made:
        return line
    detail = textwrap.indent(
        textwrap.fill(terminal.harmless(report.verdict.detail), _WIDTH), "        "
    )
    return f"{line}\n{detail}"


def _close(reports: list[Report], *, as_json: bool) -> int:
    broken = sum(not report.verdict.held for report in reports)
    left_out = sum(not report.verdict.made for report in reports)
    held = len(reports) - broken - left_out
    if as_json:
        terminal.print_json(
            {
                "held": held,
                "broken": broken,
                "not_made": left_out,
                "attacks": [
                    {
                        "name": report.attack.name,
                        "section": report.attack.section,
                        "question": report.attack.question,
                        "held": report.verdict.held,
                        "made": report.verdict.made,
                        "detail": report.verdict.detail,
                        "tried": report.verdict.tried,
                        "seconds": round(report.seconds, 3),
                    }
                    for report in reports
                ],
            }
        )
    else:
        nothing = f", {left_out} not made: there is nothing to attack" if left_out else ""
        typer.echo(f"{held} held, {broken} broken{nothing}")
    return 1 if broken else 0
