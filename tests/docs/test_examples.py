"""Every Python example of the documents runs as shown.

A block that starts an engine of its own is a program: it runs in an interpreter of its own. Every
other block is a snippet: the snippets of a page run in order in one namespace, where `engine` and
`sandbox` are open, and may use `await` as a notebook may. A comment ``# 42`` behind an expression
is its value.
"""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from collections.abc import Awaitable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest
from generated import ROOT, pages

from atoll import Engine

_FENCE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_VALUE = re.compile(r"^(?P<expression>[^#\n]+?)  # (?P<value>\S.*)$")
_PROGRAM = ("anyio.run(", "asyncio.run(", "SyncEngine", "SyncSandbox")


@dataclass(frozen=True)
class Example:
    """One block of one page."""

    page: Path
    line: int
    code: str

    @property
    def is_program(self) -> bool:
        """True if it brings its own engine."""
        return any(word in self.code for word in _PROGRAM)

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def examples() -> list[Example]:
    """All blocks, page by page, in order."""
    found = []
    for page in pages():
        if page.exists():
            text = page.read_text(encoding="utf-8")
            for match in _FENCE.finditer(text):
                found.append(Example(page, text.count("\n", 0, match.start()) + 2, match[1]))
    return found


ALL = examples()
PROGRAMS = [example for example in ALL if example.is_program]
SNIPPET_PAGES = sorted({example.page for example in ALL if not example.is_program})


def with_checks(code: str) -> str:
    """`code` with every ``expression  # value`` line turned into an assertion."""
    lines = []
    for line in code.splitlines():
        match = _VALUE.match(line)
        if match and _is_value(match["value"]) and not line.startswith((" ", "import", "from")):
            lines.append(f"assert ({match['expression']}) == {match['value']}")
        else:
            lines.append(line)
    return "\n".join(lines)


def _is_value(text: str) -> bool:
    try:
        ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return False
    return True


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("built_template")
@pytest.mark.parametrize("example", PROGRAMS, ids=str)
def test_programs_run(example: Example, tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text(example.code, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, path], capture_output=True, text=True, timeout=240, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    for said in re.findall(r"print\(.*\)  # (.+)$", example.code, re.MULTILINE):
        assert said in done.stdout


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("built_template")
@pytest.mark.parametrize("page", SNIPPET_PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_snippets_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    anyio.run(_run_page, [e for e in ALL if e.page == page and not e.is_program])


async def _run_page(snippets: list[Example]) -> None:
    async with Engine() as engine, await engine.create() as sandbox:
        names: dict[str, Any] = {"engine": engine, "sandbox": sandbox}
        for snippet in snippets:
            # The padding makes a traceback name the page's own line.
            padded = "\n" * (snippet.line - 1) + with_checks(snippet.code)
            compiled = compile(
                padded, str(snippet.page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
            )
            outcome = eval(compiled, names)
            if inspect.iscoroutine(outcome):
                await _finish(outcome)


async def _finish(outcome: Awaitable[object]) -> None:
    with anyio.fail_after(120):
        await outcome
