"""Every command that the documents show does what they show.

In a block ``console`` a line with ``$`` is a command, the lines up to the next one are what it
prints, on either stream; ``...`` stands for anything. The blocks of a page run in order in one
directory. A command without lines under it has to end well. What sets up the project itself, or
takes minutes, is not run.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from generated import ROOT, pages

_FENCE = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_NOT_RUN = ("git ", "cd ", "make ", "pip ", "atoll bench", "atoll shell")
_SECONDS = 240
_MARK = "=== ended with"


@dataclass
class Call:
    """One command and what the page says that it prints."""

    command: str
    shown: list[str] = field(default_factory=list)


def calls(page: Path) -> list[Call]:
    """The commands of a page, in order."""
    found: list[Call] = []
    for block in _FENCE.findall(page.read_text(encoding="utf-8")):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append(Call(line[2:]))
            elif found:
                found[-1].shown.append(line)
    return found


PAGES = [page for page in pages() if page.exists() and calls(page)]


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("built_template")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_print_what_is_shown(page: Path, tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    program = programs / "atoll"
    program.write_text(f"#!{sys.executable}\nfrom atoll.cli import main\n\nmain()\n")
    program.chmod(0o755)
    work = tmp_path / "work"
    work.mkdir()
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "NO_COLOR": "1"}
    wanted = [call for call in calls(page) if not call.command.startswith(_NOT_RUN)]
    for call, printed, status in zip(wanted, *_run(wanted, work, environment), strict=True):
        if call.shown:
            shown = "\n".join(call.shown).strip()
            assert _fits(shown, printed.strip()), f"$ {call.command}\n{printed}"
        else:
            assert status == 0, f"$ {call.command}\n{printed}"


def _run(
    wanted: list[Call], work: Path, environment: dict[str, str]
) -> tuple[list[str], list[int]]:
    """What each command prints, and its status; one shell runs them all."""
    lines = [f"{call.command}\necho {_MARK} $?" for call in wanted]
    script = work.parent / "script"
    script.write_text("\n".join([*lines, "kill $(jobs -p) 2> /dev/null", "wait"]))
    done = subprocess.run(
        ["/bin/bash", script],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=work,
        env=environment,
        timeout=_SECONDS,
    )
    pieces = re.split(rf"{_MARK} (\d+)\n", done.stdout)
    assert len(pieces) == 2 * len(wanted) + 1, done.stdout
    return pieces[0:-1:2], [int(status) for status in pieces[1::2]]


def _fits(shown: str, printed: str) -> bool:
    pattern = ".*".join(re.escape(part) for part in shown.split("..."))
    return re.fullmatch(pattern, printed, re.DOTALL) is not None
