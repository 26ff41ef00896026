"""What `atoll attack` prints of verdicts."""

from __future__ import annotations

import json

import pytest

from atoll.cli.attack import _close, line_of
from atoll.testing.attacks import Attack, Report
from atoll.testing.attacks.arena import Arena
from atoll.testing.attacks.model import Verdict


async def never(_: Arena) -> Verdict:
    raise AssertionError("it is not run here")


def report(name: str, verdict: Verdict) -> Report:
    return Report(Attack(name, f"Can {name} win?", "s", never), verdict, 0.5)


HELD = report("one", Verdict(True, "EPERM", "as user"))
BROKEN = report("two", Verdict(False, "it read \x1b[31mall", "as root"))
NOT_MADE = report("three", Verdict.not_made("create() refuses the limit memory on this machine"))


def test_a_line_says_what_became_of_an_attack() -> None:
    assert line_of(HELD) == f"held    {'one':<36}Can one win?"
    head, detail = line_of(BROKEN).split("\n")
    assert head == f"BROKEN  {'two':<36}Can two win?"
    assert detail.startswith("        it read") and "\x1b" not in detail
    head, detail = line_of(NOT_MADE).split("\n")
    assert head == f"-       {'three':<36}Can three win?"
    assert detail == "        create() refuses the limit memory on this machine"


def test_what_was_not_made_is_not_counted_as_held(capsys: pytest.CaptureFixture[str]) -> None:
    assert _close([HELD, NOT_MADE], as_json=False) == 0
    assert _close([HELD], as_json=False) == 0
    assert _close([HELD, BROKEN, NOT_MADE], as_json=False) == 1
    assert capsys.readouterr().out == (
        "1 held, 0 broken, 1 not made: there is nothing to attack\n"
        "1 held, 0 broken\n"
        "1 held, 1 broken, 1 not made: there is nothing to attack\n"
    )


def test_json_has_the_same_figures(capsys: pytest.CaptureFixture[str]) -> None:
    assert _close([HELD, BROKEN, NOT_MADE], as_json=True) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["held"], told["broken"], told["not_made"]) == (1, 1, 1)
    assert [attack["made"] for attack in told["attacks"]] == [True, True, False]
