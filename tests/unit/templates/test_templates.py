"""The registry of templates, and what a build of the default one does when things go wrong."""

from __future__ import annotations

import marshal
import os
import sys
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from atoll.engine import templates_interpreter, templates_python
from atoll.engine.templates import Templates
from atoll.engine.templates_interpreter import LAID_PYTHON, choose_interpreter, own_interpreter
from atoll.engine.templates_progress import BuildProgress, Report, no_report
from atoll.engine.templates_python import EnvironmentBuild, environment_key, locked_packages
from atoll.model import TemplateError, UnknownTemplate

SLOW_TOOL = "import time; print('Collecting slow', flush=True); time.sleep(60)"


@pytest.fixture
def wheelhouse(wheelhouse: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One that is all that pip can find."""
    monkeypatch.setenv("ATOLL_WHEELHOUSE", str(wheelhouse))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    return wheelhouse


def lock_of(tmp_path: Path, *pins: str) -> Path:
    lock = tmp_path / "lock.txt"
    lock.write_text("# pinned\n" + "".join(f"{pin}\n" for pin in pins))
    return lock


def build_in(work: Path, lock: Path) -> list[BuildProgress]:
    """Build an environment of `lock` in `work`; what was reported."""
    seen: list[BuildProgress] = []
    work.mkdir()

    with Path(os.devnull).open() as inherited:
        build = EnvironmentBuild(work, choose_interpreter(), seen.append, lock)
        anyio.run(build.run, inherited.fileno())
    return seen


def test_an_environment_names_only_the_paths_seen_inside(tmp_path: Path, wheelhouse: Path) -> None:
    seen = build_in(tmp_path / "work", lock_of(tmp_path, "tiny==1.0"))
    root = tmp_path / "work/opt/atoll/python"
    assert (root / "bin/tiny").read_text().startswith("#!/opt/atoll/python/bin/python3")
    assert (root / "bin/python3").readlink() == choose_interpreter().inside
    (compiled,) = root.rglob("tiny.*.pyc")
    assert "/opt/atoll/python/lib" in marshal.loads(compiled.read_bytes()[16:]).co_filename
    holders = [
        f for f in root.rglob("*") if f.is_file() and str(tmp_path).encode() in f.read_bytes()
    ]
    assert holders == []
    assert [s.phase for s in seen][:1] == ["Fetching packages"]
    assert seen[-1] == BuildProgress("Compiling", seen[-1].done, seen[-1].total)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_an_environment_built_by_root_belongs_to_user(tmp_path: Path, wheelhouse: Path) -> None:
    build_in(tmp_path / "work", lock_of(tmp_path, "tiny==1.0"))
    owners = {p.lstat().st_uid for p in (tmp_path / "work/opt/atoll/python").rglob("*")}
    assert owners == {1000}


def test_a_missing_package_names_the_ways_out(tmp_path: Path, wheelhouse: Path) -> None:
    with pytest.raises(TemplateError) as caught:
        build_in(tmp_path / "work", lock_of(tmp_path, "absent==2.0"))
    assert "absent==2.0" in str(caught.value)
    ways = ("PIP_INDEX_URL", "ATOLL_WHEELHOUSE", "pip download")
    assert all(way in str(caught.value) for way in ways)


def test_an_index_that_does_not_answer_is_said_as_such(
    tmp_path: Path, wheelhouse: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ATOLL_WHEELHOUSE")
    for name in [n for n in os.environ if n.startswith("PIP_") and n != "PIP_CONFIG_FILE"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    with pytest.raises(TemplateError, match="reach a package index"):
        build_in(tmp_path / "work", lock_of(tmp_path, "tiny==1.0"))


def test_a_full_disk_is_said_before_anything_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(templates_python, "NEEDED_BYTES", 1 << 60)
    with pytest.raises(TemplateError, match=r"is full .*\n.*ATOLL_DATA_DIR"):
        build_in(tmp_path / "work", lock_of(tmp_path, "tiny==1.0"))


def test_a_disk_that_fills_during_the_build_is_said_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = "print('OSError: [Errno 28] No space left on device'); raise SystemExit(1)"
    replace_pip(monkeypatch, tool)
    with pytest.raises(TemplateError, match="is full"):
        build_in(tmp_path / "work", lock_of(tmp_path, "tiny==1.0"))


def replace_pip(monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    command = [sys.executable, "-I", "-c", program]
    monkeypatch.setattr(EnvironmentBuild, "_pip_command", lambda self: command)


def test_a_cancelled_build_leaves_no_process_and_no_half_template(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = f"import os; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); "
    replace_pip(monkeypatch, mark + SLOW_TOOL)

    async def run() -> None:
        async with anyio.create_task_group() as tasks:

            def report(progress: BuildProgress) -> None:
                if progress.detail == "slow":
                    tasks.cancel_scope.cancel()

            await Templates(tmp_path / "data").get("code-interpreter", report)

    anyio.run(run)
    left = [p.name for p in (tmp_path / "data/templates/code-interpreter").iterdir()]
    assert [name for name in left if not name.startswith(".lock-")] == []
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_two_builders_build_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_pip(monkeypatch, f"open({str(tmp_path / 'runs')!r}, 'a').write('x')")
    seen: list[str] = []

    async def run() -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(2):
                templates = Templates(tmp_path / "data")
                report = seen_by(seen)
                tasks.start_soon(templates.get, "code-interpreter", report)

    anyio.run(run)
    assert (tmp_path / "runs").read_text() == "x"
    assert "Waiting for another builder" in seen


def seen_by(phases: list[str]) -> Report:
    """A report that only keeps the phases."""
    return lambda progress: phases.append(progress.phase)


def test_an_unknown_template_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UnknownTemplate, match="code-interpreter, base"):
        anyio.run(Templates(tmp_path).get, "pyhton", no_report)


def test_base_shows_the_machine_and_no_more(tmp_path: Path) -> None:
    template = anyio.run(Templates(tmp_path).get, "base", no_report)
    assert [layer.mountpoint for layer in template.layers][:2] == ["/", "/usr"]
    machine = {str(low) for layer in template.layers for low in layer.lowers}
    assert not machine & {"/", "/home", "/root", "/var", "/srv", "/etc"}
    assert template.preload == ()


def test_an_added_template_is_found_by_name(tmp_path: Path) -> None:
    templates = Templates(tmp_path)
    base = anyio.run(templates.get, "base", no_report)
    templates.add(replace(base, name="mine"))
    assert anyio.run(templates.get, "mine", no_report).name == "mine"
    assert [info.name for info in templates.list()] == ["code-interpreter", "base", "mine"]


def test_the_key_follows_the_interpreter() -> None:
    system, own = choose_interpreter(), own_interpreter()
    assert environment_key(system) == environment_key(system)
    assert (environment_key(system) == environment_key(own)) == (system == own)


def test_an_interpreter_below_a_home_is_laid_at_a_fixed_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "base_prefix", str(tmp_path))
    interpreter = own_interpreter()
    assert interpreter.layer is not None
    assert interpreter.layer.lowers == (tmp_path,)
    assert str(interpreter.inside).startswith(f"{LAID_PYTHON}/bin/python3.")


def test_the_own_interpreter_is_taken_where_the_machine_has_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(templates_interpreter, "system_interpreter", lambda: None)
    assert choose_interpreter() == own_interpreter()


def test_no_usable_interpreter_says_what_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates_interpreter, "OLDEST", (9, 9))
    with pytest.raises(TemplateError, match=r"found: .*\(3\.\d+\)"):
        choose_interpreter()


def test_every_package_is_pinned() -> None:
    assert all(pin.count("==") == 1 for pin in locked_packages())
    names = {pin.split("==")[0] for pin in locked_packages()}
    assert names >= {
        "ipython",
        "numpy",
        "pandas",
        "matplotlib",
        "scipy",
        "scikit-learn",
        "requests",
    }
