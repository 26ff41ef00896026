"""What the documents say of the code is what the code says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from generated import COMMANDS, MADE, ROOT, help_of, pages, renewed

PAGES = [page for page in pages() if page.exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_made_parts_are_up_to_date(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert renewed(text) == text, "run: python tests/docs/generated.py"


def test_every_made_part_stands_in_a_page() -> None:
    found = {
        name
        for page in PAGES
        for name in re.findall(r"<!-- made: ([a-z-]+) -->", page.read_text(encoding="utf-8"))
    }
    assert found == set(MADE)


def test_every_command_is_in_the_reference() -> None:
    shown = set()
    for command in COMMANDS:
        section = help_of(command).partition("Commands:\n")[2]
        shown |= {(*command, name) for name in re.findall(r"^  ([a-z]+)  ", section, re.MULTILINE)}
    assert shown == set(COMMANDS) - {()}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"[a-z]+:|#", target):
            assert (page.parent / target.split("#")[0]).exists(), f"{page}: {target}"


def test_every_test_that_the_specification_names_is_there() -> None:
    text = (ROOT / "SPECIFICATION.md").read_text(encoding="utf-8")
    named = re.findall(r"`((?:tests|src)/[\w/]+\.py)(?:::(\w+))?`", text)
    assert len(named) > 30
    for path, name in named:
        assert (ROOT / path).is_file(), path
        assert f"def {name}(" in (ROOT / path).read_text(encoding="utf-8") or not name, name
