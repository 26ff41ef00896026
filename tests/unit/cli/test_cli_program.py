"""Which language a program is in, and how it is started."""

from __future__ import annotations

from pathlib import Path

import pytest

from atoll.cli.program import Program, detect, from_code, from_file, interpreter, language_named
from atoll.model import FileNotFound, InvalidArgument, IsADirectory, Template, UnknownLanguage

FULL = Template("t", (), python="/opt/python3", node="/opt/node")
EMPTY = Template("empty", ())


@pytest.mark.parametrize(
    ("name", "content", "language"),
    [
        ("a.py", b"", "python"),
        ("a.PY", b"", "python"),
        ("a.mjs", b"", "javascript"),
        ("a.ts", b"", "typescript"),
        ("a.sh", b"", "bash"),
        ("tool", b"#!/usr/bin/env python3\n", "python"),
        ("tool", b"#!/usr/bin/python3.12 -u\n", "python"),
        ("tool", b"#! /bin/sh -e\n", "bash"),
        ("tool", b"#!/usr/bin/env -S A=1 node --x\n", "javascript"),
        ("tool.txt", b"#!/bin/bash", "bash"),
    ],
)
def test_the_language_is_told_by_suffix_then_by_first_line(
    name: str, content: bytes, language: str
) -> None:
    assert detect(name, content) == language


@pytest.mark.parametrize("content", [b"", b"print(1)", b"#!", b"#!/usr/bin/perl\n", b"\0\xff"])
def test_a_file_that_tells_nothing_is_refused_with_the_choices(content: bytes) -> None:
    with pytest.raises(UnknownLanguage) as caught:
        detect("tool", content)
    assert "--language python, javascript" in str(caught.value)


def test_short_names_mean_languages() -> None:
    assert language_named("TS") == "typescript"
    with pytest.raises(UnknownLanguage):
        language_named("cobol")


def test_the_interpreter_is_the_templates_own() -> None:
    assert interpreter("python", FULL) == ["/opt/python3"]
    assert interpreter("javascript", FULL) == ["/opt/node"]
    assert interpreter("typescript", FULL)[0] == "/opt/node"
    assert interpreter("bash", EMPTY) == ["/bin/bash"]
    with pytest.raises(UnknownLanguage, match="empty"):
        interpreter("javascript", EMPTY)


def test_arguments_follow_the_program() -> None:
    program = Program(b"", "a.py", "python")
    assert program.argv(FULL, ("-x", "y z")) == ["/opt/python3", "/home/user/a.py", "-x", "y z"]


def test_code_is_python_unless_said() -> None:
    assert from_code("1", None) == Program(b"1", "main.py", "python")
    assert from_code("1", "js") == Program(b"1", "main.js", "javascript")


def test_a_missing_file_and_a_directory_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(FileNotFound):
        from_file(tmp_path / "gone.py", None)
    with pytest.raises(IsADirectory, match="--mount"):
        from_file(tmp_path, None)
    with pytest.raises(InvalidArgument):
        from_file(Path("a\0b.py"), None)


def test_a_file_keeps_its_bytes_and_its_name_only(tmp_path: Path) -> None:
    path = tmp_path / "deep name.py"
    path.write_bytes(b"\xff\x00")
    assert from_file(path, None) == Program(b"\xff\x00", "deep name.py", "python")
