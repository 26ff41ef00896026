"""`atoll doctor`: what it prints, and what it never does by itself."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from command_line import Atoll

from atoll.cli import doctor as command
from atoll.launch.linux import doctor
from atoll.launch.linux.doctor_machine import Check

GOOD = Check("kernel", "ok", "Linux 6.1 on x86_64")
SMALL = Check("cgroups", "warn", "none", "start it as root.")
BAD = Check("AppArmor", "fail", "forbids user namespaces", "install it: `sudo x`")


@dataclass
class FakeMachine:
    """As much of a machine as the offer looks at."""

    executable: Path = Path("/srv/venv/bin/python3")
    prefix: Path = Path("/srv/venv")
    data_dir: Path | None = None


def _examine(monkeypatch: pytest.MonkeyPatch, findings: list[Check], *, quiet: bool = False) -> int:
    monkeypatch.setattr(doctor, "checks", lambda machine: findings)
    return command.examine(FakeMachine(), quiet=quiet, as_json=False)  # type: ignore[arg-type]


def test_a_machine_that_works(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _examine(monkeypatch, [GOOD, SMALL]) == 0
    assert capsys.readouterr().out == (
        "ok    kernel: Linux 6.1 on x86_64\n"
        "warn  cgroups: none\n"
        "      start it as root.\n"
        "Sandboxes can be made here.\n"
    )


def test_a_machine_that_does_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _examine(monkeypatch, [GOOD, BAD], quiet=True) == 1
    assert capsys.readouterr().out == (
        "fail  AppArmor: forbids user namespaces\n"
        "      install it: `sudo x`\n"
        "No sandbox can be made here until the lines marked `fail` are mended.\n"
    )


def test_quiet_says_nothing_where_all_is_well(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _examine(monkeypatch, [GOOD, SMALL], quiet=True) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("answer", "ran"), [(True, 1), (False, 0)])
def test_the_profile_is_installed_only_after_a_yes(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    answer: bool,
    ran: int,
) -> None:
    commands: list[list[str]] = []

    class Done:
        returncode = 0

    def run(argv: list[str], check: bool) -> Done:
        commands.append(argv)
        return Done()

    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("typer.confirm", lambda *_, **__: answer)
    monkeypatch.setattr("subprocess.run", run)
    monkeypatch.setattr(command, "_here", lambda data_dir: FakeMachine())
    assert _examine(monkeypatch, [BAD]) == 1
    assert len(commands) == ran
    assert "/srv/venv/bin/python3" in capsys.readouterr().out


def test_nobody_is_asked_where_nobody_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    assert _examine(monkeypatch, [BAD]) == 1
    assert "sudo?" not in capsys.readouterr().out


def test_json_and_the_bundle_are_of_this_machine(atoll: Atoll, tmp_path: Path) -> None:
    done = atoll("doctor", "--json", "--report", "bundle.json", cwd=tmp_path)
    found = json.loads(done.stdout)
    assert done.returncode == (0 if found["works"] else 1)
    assert {"name", "verdict", "seen", "fix"} == set(found["checks"][0])
    bundle = json.loads((tmp_path / "bundle.json").read_text())
    assert bundle["atoll"]
    assert str(Path.home()) not in json.dumps(bundle)


def test_a_bundle_that_cannot_be_written(atoll: Atoll) -> None:
    done = atoll("doctor", "--report", "/no/such/directory/x")
    assert done.returncode == 1
    assert done.stderr.startswith(b"Error: cannot write /no/such/directory/x")
