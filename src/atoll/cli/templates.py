"""`atoll template`: which templates there are, and building one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from atoll.cli import terminal
from atoll.cli.settings import AsJson, Settings, settings_of
from atoll.model import Template

if TYPE_CHECKING:
    from atoll import Engine
    from atoll.engine.templates import TemplateInfo

group = typer.Typer(help="Show and build templates.", no_args_is_help=True, rich_markup_mode=None)


async def prepared(engine: Engine, name: str) -> Template:
    """The template `name`, built with a bar on stderr if it is not there yet."""
    from atoll.engine.templates_progress import terminal_report

    waiting = any(info.name == name and not info.built for info in engine.templates.list())
    template: Template
    if not waiting:
        template = await engine.templates.get(name)
        return template
    with terminal_report(f"template {name}") as report:
        template = await engine.templates.get(name, report)
    return template


@group.command("list")
def list_templates(context: typer.Context, as_json: AsJson = False) -> None:
    """Show the templates, whether each is built, and where."""

    async def work() -> int:
        found = await _known(settings_of(context))
        if as_json:
            terminal.print_json(found)
            return 0
        rows = [[info.name, "yes" if info.built else "no", info.description] for info in found]
        terminal.print_table(["name", "built", "description"], rows)
        return 0

    raise typer.Exit(terminal.finish(work, as_json=as_json))


async def _known(settings: Settings) -> list[TemplateInfo]:
    from atoll import Engine

    async with Engine(data_dir=settings.data_dir, launcher=settings.launcher) as engine:
        return list(engine.templates.list())


@group.command("build")
def build(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Template to build.")] = "code-interpreter",
    as_json: AsJson = False,
) -> None:
    """Build a template now, so that the first sandbox need not wait for it.

    A template that is built already is not built again. Ctrl-C leaves nothing half-built.
    """

    async def work() -> int:
        from atoll import Engine

        settings = settings_of(context)
        async with Engine(data_dir=settings.data_dir, launcher=settings.launcher) as engine:
            await prepared(engine, name)
            info = next(info for info in engine.templates.list() if info.name == name)
        if as_json:
            terminal.print_json(info)
        else:
            place = f" in {info.directory}" if info.directory else ""
            terminal.note(f"template {name} is ready{place}")
        return 0

    said = "interrupted: nothing half-built is left; the next build starts again"
    raise typer.Exit(terminal.finish(work, as_json=as_json, interrupted=said))
