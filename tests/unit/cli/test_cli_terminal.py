"""How errors, tables and JSON look, and which exit code an end has."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from atoll.cli import terminal
from atoll.model import (
    AtollError,
    CommandResult,
    InvalidArgument,
    KilledBy,
    LimitUnavailable,
    SandboxDied,
)


async def _fails() -> int:
    raise InvalidArgument("it went wrong", hint="do it right", sandbox_id="abc")


async def _fails_in_a_group() -> int:
    raise ExceptionGroup("tasks", [ExceptionGroup("inner", [SandboxDied("gone")])])


async def _has_a_bug() -> int:
    raise ExceptionGroup("tasks", [SandboxDied("gone"), ZeroDivisionError()])


def test_an_error_is_one_line_and_a_hint(capsys: pytest.CaptureFixture[str]) -> None:
    assert terminal.finish(_fails) == terminal.OWN_FAILURE
    taken = capsys.readouterr()
    assert taken.err == "Error: [abc] it went wrong\nHint: do it right\n"
    assert taken.out == ""


def test_an_error_as_json_is_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    assert terminal.finish(_fails, as_json=True, failure=125) == 125
    taken = capsys.readouterr()
    assert json.loads(taken.out) == {
        "error": {
            "code": "invalid_argument",
            "message": "it went wrong",
            "hint": "do it right",
            "sandbox_id": "abc",
        }
    }
    assert taken.err == ""


def test_an_error_out_of_a_task_group_is_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert terminal.finish(_fails_in_a_group) == 1
    assert capsys.readouterr().err == "Error: gone\n"


def test_a_bug_is_not_hidden_behind_an_error() -> None:
    with pytest.raises(ExceptionGroup):
        terminal.finish(_has_a_bug)


def test_an_interrupt_is_130(capsys: pytest.CaptureFixture[str]) -> None:
    async def interrupted() -> int:
        raise KeyboardInterrupt

    assert terminal.finish(interrupted) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_a_reader_that_has_gone_is_141_and_silent(capsys: pytest.CaptureFixture[str]) -> None:
    async def piped() -> int:
        raise ExceptionGroup("tasks", [BrokenPipeError()])

    assert terminal.finish(piped) == 141
    assert capsys.readouterr().err == ""


def test_every_error_has_a_shape() -> None:
    fields = terminal.error_fields(AtollError("x"))
    assert fields == {"code": "internal", "message": "x", "hint": None, "sandbox_id": None}


def test_json_knows_results_enums_and_paths(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.print_json(
        {"r": CommandResult("é", "", 137, "SIGKILL", KilledBy.MEMORY), "p": Path("/a")}
    )
    line = capsys.readouterr().out
    assert line.count("\n") == 1
    assert json.loads(line)["r"]["killed_by"] == "memory"
    assert json.loads(line)["p"] == "/a"


def test_a_table_has_aligned_columns(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.print_table(["id", "state"], [["abcdef", "running"], ["x", "paused"]])
    assert capsys.readouterr().out == ("ID       STATE\nabcdef   running\nx        paused\n")


def test_progress_off_a_terminal_is_one_line_a_step(capsys: pytest.CaptureFixture[str]) -> None:
    with terminal.progress("Building") as tell:
        tell("one", 0.1)
        tell("one", 0.2)
        tell("two", None)
    assert capsys.readouterr().err == "Building: one\nBuilding: two\n"


def test_a_lifted_limit_is_said_as_on_the_command_line() -> None:
    error = LimitUnavailable("x", hint="or pass memory=None, cpu_time=None to go without.")
    assert terminal.hint_of(error) == "or pass --memory none, --cpu-time none to go without."
    assert terminal.hint_of(AtollError("x", hint="a=None")) == "a=None"


def test_control_characters_of_a_sandbox_do_not_reach_the_terminal() -> None:
    assert terminal.harmless("a\x1b[31mb\x07\tc\u202ed") == "a\\x1b[31mb\\x07\tc\\x202ed"
