"""The parts of the documents that are made from the code, and the command that renews them.

A made part stands between two markers in its page:

    <!-- made: NAME -->
    ...
    <!-- end -->

``python tests/docs/generated.py`` renews all of them; the tests fail while one is out of date.
"""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path

import atoll.model
from atoll.bench.report import LATEST
from atoll.bench.targets import TARGETS
from atoll.launch.linux import walls
from atoll.model import AtollError, Limits

ROOT = Path(__file__).parents[2]
_PART = re.compile(r"(<!-- made: (?P<name>[a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
_WIDTH = "88"
COMMANDS = (
    (),
    ("run",),
    ("shell",),
    ("exec",),
    ("ps",),
    ("kill",),
    ("cp",),
    ("template",),
    ("template", "list"),
    ("template", "build"),
    ("doctor",),
    ("attack",),
    ("bench",),
    ("bench", "engine"),
    ("clean",),
)


def pages() -> list[Path]:
    """Every page of the documents that a reader may open."""
    named = [ROOT / "README.md", ROOT / "SPECIFICATION.md", ROOT / "CHANGELOG.md"]
    return [*named, *sorted((ROOT / "docs").rglob("*.md"))]


def help_of(command: tuple[str, ...]) -> str:
    """What ``atoll COMMAND --help`` prints."""
    environment = dict(os.environ, COLUMNS=_WIDTH, TERMINAL_WIDTH=_WIDTH, TERM="dumb", NO_COLOR="1")
    for name in [name for name in environment if name.startswith("ATOLL_")]:
        del environment[name]
    program = "from atoll.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, *command, "--help"],
        capture_output=True,
        text=True,
        env=environment,
        check=True,
    )
    return "\n".join(line.rstrip() for line in done.stdout.strip().splitlines())


def command_line_help() -> str:
    """The help of every command, a section each."""
    sections = []
    for command in COMMANDS:
        name = " ".join(("atoll", *command))
        sections.append(f"### `{name}`\n\n```text\n{help_of(command)}\n```\n")
    return "\n".join(sections)


def _attributes(of: type) -> dict[str, str]:
    """The Attributes section of a class's docstring, as name to text."""
    section = inspect.cleandoc(of.__doc__ or "").split("Attributes:\n", 1)[1]
    entries = re.findall(r"^    (\w+): (.*(?:\n        .*)*)", section, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}


def limits_table() -> str:
    """One row for each limit, from the dataclass and its docstring."""
    documented = _attributes(Limits)
    lines = ["| limit | default | what it bounds |", "| --- | --- | --- |"]
    for field in fields(Limits):
        default = "none" if field.default is None else f"`{field.default!r}`"
        text = re.sub(r" Default [^.]*\.$", "", documented[field.name])
        lines.append(f"| `{field.name}` | {default} | {text} |")
    return "\n".join(lines) + "\n"


def _errors(of: type[AtollError], depth: int = 0) -> Iterator[tuple[int, type[AtollError]]]:
    yield depth, of
    for below in of.__subclasses__():
        if below.__module__ == atoll.model.errors.__name__:
            yield from _errors(below, depth + 1)


def errors_table() -> str:
    """One row for each error of the tree: its name, its code and when it is raised."""
    lines = ["| error | code | when |", "| --- | --- | --- |"]
    for depth, error in _errors(AtollError):
        indent = "&nbsp;&nbsp;" * depth
        when = " ".join(inspect.cleandoc(error.__doc__ or "").split("\n\n")[0].split())
        lines.append(f"| {indent}`{error.__name__}` | `{error.code}` | {when} |")
    return "\n".join(lines) + "\n"


def targets_table() -> str:
    """One row for each target of the benchmark."""
    lines = ["| row | target |", "| --- | --- |"]
    lines += [f"| `{key}` | {target.text} |" for key, target in TARGETS.items()]
    return "\n".join(lines) + "\n"


def figures() -> str:
    """The last full run of the benchmark, as it was written."""
    latest = ROOT / "bench" / "results" / LATEST
    if not latest.exists():
        return "Not measured yet: `make bench` measures this machine.\n"
    return latest.read_text(encoding="utf-8")


MADE: dict[str, Callable[[], str]] = {
    "command-line": command_line_help,
    "limits": limits_table,
    "errors": errors_table,
    "targets": targets_table,
    "figures": figures,
    "walls": walls.markdown,
}


def renewed(text: str) -> str:
    """`text` with every made part as it should be now."""

    def part(match: re.Match[str]) -> str:
        return f"{match[1]}\n{MADE[match['name']]()}\n{match[3]}"

    return _PART.sub(part, text)


def main() -> None:
    """Renew every page and say which ones changed."""
    for page in pages():
        if not page.exists():
            continue
        before = page.read_text(encoding="utf-8")
        after = renewed(before)
        if after != before:
            page.write_text(after, encoding="utf-8")
            sys.stdout.write(f"renewed {page.relative_to(ROOT)}\n")


if __name__ == "__main__":
    main()
