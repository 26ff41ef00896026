"""`atoll clean`: what it removes, and what it never touches."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from command_line import COMMAND, Base


def _atoll(environment: dict[str, str], data_dir: Path, *arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        [*COMMAND, "--data-dir", str(data_dir), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        text=True,
    )
    return done.returncode, done.stdout


def test_all_that_was_kept_goes_also_what_sub_ids_own(
    base: Base, atoll_environment: dict[str, str], tmp_path: Path
) -> None:
    data_dir = tmp_path / "data"
    status, said = _atoll(atoll_environment, data_dir, "run", *base, "-c", "print(1)")
    assert (status, said) == (0, "1\n")
    status, said = _atoll(atoll_environment, data_dir, "clean", "--json")
    assert json.loads(said) == {"reaped": [], "removed": ["layers", "owners"]}
    assert status == 0
    assert not data_dir.exists()


def test_what_is_not_atolls_stays(atoll_environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "layers" / "deep").mkdir(parents=True)
    (tmp_path / "mine").write_text("x")
    status, said = _atoll(atoll_environment, tmp_path, "clean", "--yes")
    assert (status, said) == (0, f"atoll: {tmp_path}: removed layers\n")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_nothing_to_remove_is_no_error(atoll_environment: dict[str, str], tmp_path: Path) -> None:
    status, said = _atoll(atoll_environment, tmp_path / "gone", "clean")
    assert status == 0
    assert said.endswith("nothing to remove\n")
