"""Options that several commands share, and what was said before the command's name."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from atoll.model import InvalidArgument, InvalidLimit, Limits, Mount

NONE = "none"


@dataclass(frozen=True)
class Settings:
    """What was said before the command's name."""

    data_dir: Path | None = None
    launcher: str | None = None


def settings_of(context: typer.Context) -> Settings:
    """The settings of this call."""
    found = context.find_object(Settings)
    return found if found is not None else Settings()


def limit_option(name: str, unit: str) -> Any:
    """The option of one limit; its default is the library's."""
    default = getattr(Limits(), name)
    shown = NONE if default is None else default
    return typer.Option(
        f"--{name.replace('_', '-')}",
        metavar=unit,
        help=f"Limit {name}. Default {_readable(name, shown)}; '{NONE}' lifts it.",
        rich_help_panel="Limits",
    )


def _readable(name: str, default: object) -> str:
    if name in _SIZES and isinstance(default, int):
        for letter, factor in (("G", 1 << 30), ("M", 1 << 20), ("K", 1 << 10)):
            if default % factor == 0:
                return f"{default // factor}{letter}"
    return str(default)


_SIZES = ("memory", "file_size", "disk", "output")
_WHOLE = ("pids", "open_files", "max_processes")

Memory = Annotated[str | None, limit_option("memory", "SIZE")]
Cpu = Annotated[str | None, limit_option("cpu", "CORES")]
Pids = Annotated[str | None, limit_option("pids", "N")]
OpenFiles = Annotated[str | None, limit_option("open_files", "N")]
FileSize = Annotated[str | None, limit_option("file_size", "SIZE")]
Disk = Annotated[str | None, limit_option("disk", "SIZE")]
Wall = Annotated[str | None, limit_option("wall", "SECONDS")]
CpuTime = Annotated[str | None, limit_option("cpu_time", "SECONDS")]
Output = Annotated[str | None, limit_option("output", "SIZE")]

User = Annotated[str | None, typer.Option(metavar="NAME", help="User inside: user or root.")]
Cwd = Annotated[str | None, typer.Option(metavar="DIR", help="Directory inside to start in.")]
Variables = Annotated[
    list[str] | None, typer.Option("--env", metavar="NAME=VALUE", help="Set a variable.")
]
Mounts = Annotated[
    list[str] | None,
    typer.Option("--mount", metavar="HOST:GUEST[:ro]", help="Show a host directory inside."),
]
Command = Annotated[
    list[str] | None,
    typer.Argument(metavar="CMD", help="What to run, after --. Default: a login shell."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
ResultAsJson = Annotated[
    bool, typer.Option("--json", help="Print the result as JSON instead of the output.")
]


def limits_from(said: dict[str, str | None]) -> Limits:
    """The limits that were said, over the library's defaults.

    Raises:
        InvalidLimit: not a number, not a size, or not above zero.
    """
    given: dict[str, Any] = {}
    for name, text in said.items():
        if text is not None:
            given[name] = None if text.lower() == NONE else _value(name, text)
    return Limits(**given)


def _value(name: str, text: str) -> Any:
    if name in _SIZES:
        return text
    try:
        return int(text) if name in _WHOLE else float(text)
    except ValueError:
        option = f"--{name.replace('_', '-')}"
        raise InvalidLimit(f"{option} takes a number or '{NONE}', not {text!r}") from None


def mounts_from(said: Iterable[str]) -> tuple[Mount, ...]:
    """``HOST:GUEST[:ro|:rw]`` each; the host path has to exist.

    Raises:
        InvalidArgument: another form, no such host path, or a guest path that is not absolute.
    """
    return tuple(_mount(text) for text in said)


def _mount(text: str) -> Mount:
    form = "write HOST:GUEST, HOST:GUEST:ro or HOST:GUEST:rw"
    path, _, mode = text.rpartition(":")
    if mode not in ("ro", "rw") or ":" not in path:
        path, mode = text, "rw"
    host, _, guest = path.rpartition(":")
    if not host or not guest.startswith("/"):
        raise InvalidArgument(f"{text!r} is not a mount", hint=form)
    source = Path(host).expanduser().resolve()
    if not source.exists():
        raise InvalidArgument(f"cannot mount {host}: there is no such file or directory", hint=form)
    return Mount(source, guest, read_only=mode == "ro")


def environment_from(said: Iterable[str]) -> dict[str, str]:
    """``NAME=VALUE`` each.

    Raises:
        InvalidArgument: no name, or no ``=``.
    """
    found = {}
    for text in said:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise InvalidArgument(f"{text!r} is not an environment entry", hint="write NAME=VALUE")
        found[name] = value
    return found


def seconds_from(option: str, text: str | None) -> float | None:
    """Seconds above zero, or None for ``none`` or nothing said.

    Raises:
        InvalidArgument: anything else.
    """
    if text is None or text.lower() == NONE:
        return None
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise InvalidArgument(f"{option} takes seconds above zero or '{NONE}', not {text!r}")
    return value
