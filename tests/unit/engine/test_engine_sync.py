"""The front without `await`."""

from __future__ import annotations

import threading
from pathlib import Path

import anyio
import pytest
from engine_kit import open_descriptors, until

from atoll.engine import SyncEngine, SyncSandbox
from atoll.launch.registry import LAUNCHERS, Entry
from atoll.model import CommandResult, FileNotFound, SandboxDied, SandboxInfo, Template


def test_a_day_in_the_life(place: Path, template: Template) -> None:
    threads, descriptors = threading.active_count(), open_descriptors()
    with SyncEngine(data_dir=place / "data", launcher="fake") as engine:
        with engine.create(template, metadata={"a": "b"}) as sandbox:
            assert isinstance(sandbox, SyncSandbox)
            assert isinstance(sandbox.info, SandboxInfo)
            result = sandbox.commands.run("echo hi")
            assert isinstance(result, CommandResult)
            assert result.stdout == "hi\n"
            sandbox.files.write(f"{place}/x", iter([b"a", b"b"]))
            assert sandbox.files.read(f"{place}/x") == "ab"
            assert b"".join(sandbox.files.read(f"{place}/x", "stream")) == b"ab"
            handle = sandbox.commands.start("echo 1; sleep 0.05; echo 2")
            assert b"".join(data for _, data in handle) == b"1\n2\n"
            assert handle.wait().ok
            assert [info.id for info in engine.list()] == [sandbox.id]
            assert engine.get(sandbox.id).id == sandbox.id
            with pytest.raises(FileNotFound):
                sandbox.files.read("/no/such")
        assert engine.list() == []
        with pytest.raises(SandboxDied):
            sandbox.commands.run(["true"])
    anyio.run(until, lambda: threading.active_count() == threads)  # workers end by themselves
    assert open_descriptors() == descriptors


def test_callbacks_run_elsewhere_and_may_call_back(place: Path, template: Template) -> None:
    seen: list[str] = []
    with SyncEngine(data_dir=place / "data", launcher="fake") as engine:
        sandbox = engine.create(template)

        def seen_and_asked(text: str) -> None:
            seen.append(text + sandbox.commands.run("echo inner").stdout)

        sandbox.commands.run("echo outer", on_stdout=seen_and_asked)
    assert seen == ["outer\ninner\n"]


def test_a_watch_is_a_loop(place: Path, template: Template) -> None:
    with SyncEngine(data_dir=place / "data", launcher="fake") as engine:
        sandbox = engine.create(template)
        with sandbox.files.watch(str(place)) as watch:
            (place / "new").touch()
            assert next(iter(watch)).path == "new"


def test_it_is_used_in_a_block(place: Path) -> None:
    engine = SyncEngine(data_dir=place / "data", launcher="fake")
    with pytest.raises(RuntimeError, match="with SyncEngine"):
        engine.list()


def test_the_short_form_ends_its_engine_and_its_thread(
    place: Path, template: Template, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATOLL_DATA_DIR", str(place / "data"))
    fake = LAUNCHERS["fake"]
    only = {"fake": Entry(fake.module, fake.factory, fake.platform, True)}
    monkeypatch.setattr("atoll.launch.registry.LAUNCHERS", only)
    threads = threading.active_count()
    with SyncSandbox.create(template) as sandbox:
        assert sandbox.commands.run(["true"]).ok
    second = SyncSandbox.create(template)
    assert second.kill()
    anyio.run(until, lambda: threading.active_count() == threads)  # workers end by themselves
    assert list((place / "data/owners").iterdir()) == []
