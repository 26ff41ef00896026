"""The wheel that users install: built, put into a clean environment, and used from there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from atoll import Limits

pytestmark = pytest.mark.timeout(300)
PROJECT = Path(__file__).parents[2]

HELLO = """\
import sys
import anyio
from atoll import Engine, Limits

async def main():
    none = dict.fromkeys(["memory", "cpu", "pids", "disk"])
    limits = Limits() if sys.argv[1] == "all" else Limits(**none)
    async with Engine() as engine, await engine.create("base", limits=limits) as sandbox:
        print((await sandbox.commands.run("echo hello from $(id -un)")).stdout, end="")

anyio.run(main)
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin directory of a clean environment with the wheel in it."""
    work = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(work)]
    subprocess.run([*build, str(PROJECT)], check=True, capture_output=True)
    (wheel,) = work.glob("atoll-*.whl")
    base = Path(sys.base_prefix, "bin", f"python3.{sys.version_info[1]}")
    subprocess.run([base, "-m", "venv", "--without-pip", work / "venv"], check=True)
    python = work / "venv/bin/python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", str(wheel)]
    got = subprocess.run(pip, capture_output=True, text=True)
    if got.returncode:
        pytest.skip(f"its dependencies could not be installed (offline?): {got.stderr[-500:]}")
    return work / "venv/bin"


def clean_environment(tmp_path: Path) -> dict[str, str]:
    """Nothing of this checkout in it."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return {**kept, "ATOLL_DATA_DIR": str(tmp_path / "data")}


def test_the_installed_command_says_its_version(tmp_path: Path, installed: Path) -> None:
    got = subprocess.run(
        [installed / "atoll", "--version"],
        capture_output=True, text=True, cwd=tmp_path, env=clean_environment(tmp_path),
    )  # fmt: skip
    assert (got.returncode, got.stderr) == (0, "")
    assert got.stdout.startswith("atoll 0.")


def test_the_wheel_holds_what_is_no_python(installed: Path) -> None:
    (package,) = installed.parent.glob("lib/python3.*/site-packages/atoll")
    for name in ("py.typed", "engine/code_interpreter.txt"):
        assert (package / name).is_file()
    sources = {path.name for path in (PROJECT / "src/atoll/guest").rglob("*.mjs")}
    assert {path.name for path in package.rglob("*.mjs")} == sources


def test_a_sandbox_says_hello_from_the_installed_package(
    tmp_path: Path, installed: Path, limits: Limits
) -> None:
    script = tmp_path / "hello.py"
    script.write_text(HELLO)
    which = "none" if limits.memory is None else "all"
    got = subprocess.run(
        [installed / "python", script, which],
        capture_output=True, text=True, cwd=tmp_path, env=clean_environment(tmp_path),
    )  # fmt: skip
    assert (got.stdout, got.returncode) == ("hello from user\n", 0), got.stderr
