"""The list of attacks is complete and readable."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from atoll.testing.attacks import ATTACKS, named, table


def test_names_are_unique_and_questions_are_questions() -> None:
    names = [attack.name for attack in ATTACKS]
    assert len(names) == len(set(names))
    assert all(re.fullmatch(r"[a-z0-9-]+", name) for name in names)
    assert all(attack.question.endswith("?") for attack in ATTACKS)


def test_attacks_are_chosen_by_name_and_by_section() -> None:
    assert [attack.name for attack in named(["bpf"])] == ["bpf"]
    assert {attack.section for attack in named(["network"])} == {"network"}
    assert named(None) == ATTACKS
    with pytest.raises(KeyError):
        named(["no such attack"])


def test_the_table_has_a_row_for_each_attack() -> None:
    assert table().count("\n") == len(ATTACKS) + 2


def test_the_page_lists_every_attack() -> None:
    page = Path(__file__).parents[2] / "docs" / "attacks.md"
    assert page.read_text().endswith(table()), "print atoll.testing.attacks.table() into it"
