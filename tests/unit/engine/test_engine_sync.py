"""The front without `await`."""

from __future__ import annotations

import functools
import threading
from pathlib import Path
from typing import assert_type

import anyio
import anyio.lowlevel
import pytest
from engine_kit import open_descriptors

from atoll.engine import (
    CommandHandle,
    Commands,
    Engine,
    Files,
    PtyHandle,
    Sandbox,
    SyncEngine,
    SyncSandbox,
    Templates,
    Watch,
)
from atoll.engine.front import Method
from atoll.engine.network import SandboxNetwork
from atoll.engine.pty import Ptys
from atoll.engine.sync_parts import (
    SyncCommandHandle,
    SyncCommands,
    SyncFiles,
    SyncNetwork,
    SyncPtyHandle,
    SyncPtys,
    SyncTemplates,
    SyncWatch,
)
from atoll.launch.registry import LAUNCHERS, Entry
from atoll.model import (
    CommandResult,
    EntryInfo,
    FileNotFound,
    InvalidArgument,
    SandboxDied,
    SandboxInfo,
    Template,
)
from atoll.testing.waiting import eventually


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
            assert "hi\n" in [entry.message for entry in sandbox.logs()]
            assert isinstance(sandbox.metrics_history(), list)
            assert b"atoll_sandboxes 1.0" in engine.prometheus()
            assert [info.id for info in engine.list()] == [sandbox.id]
            assert engine.get(sandbox.id).id == sandbox.id
            with pytest.raises(FileNotFound):
                sandbox.files.read("/no/such")
        assert engine.list() == []
        with pytest.raises(SandboxDied):
            sandbox.commands.run(["true"])
    anyio.run(eventually, lambda: threading.active_count() == threads)  # workers end by themselves
    assert open_descriptors() == descriptors


def test_callbacks_run_elsewhere_and_may_call_back(place: Path, template: Template) -> None:
    seen: list[str] = []
    with SyncEngine(data_dir=place / "data", launcher="fake") as engine:
        sandbox = engine.create(template)

        def seen_and_asked(text: str) -> None:
            seen.append(text + sandbox.commands.run("echo inner").stdout)

        sandbox.commands.run("echo outer", on_stdout=seen_and_asked)
        sandbox.commands.run("echo part", on_stdout=functools.partial(seen.append))
        handle = sandbox.commands.connect(sandbox.commands.start("echo last; sleep 9").pid)
        assert next(iter(handle)) == ("stdout", b"last\n")
    assert seen == ["outer\ninner\n", "part\n"]


def test_a_coroutine_function_may_be_a_callback_too(place: Path, template: Template) -> None:
    seen: list[str] = []

    async def append(text: str) -> None:
        await anyio.lowlevel.checkpoint()
        seen.append(text)

    with SyncEngine(data_dir=place / "data", launcher="fake") as engine:
        engine.create(template).commands.run("echo 1", on_stdout=append)
    assert seen == ["1\n"]


def test_a_watch_is_a_loop(place: Path, template: Template) -> None:
    with SyncEngine(data_dir=place / "data", launcher="fake") as engine:
        sandbox = engine.create(template)
        with sandbox.files.watch(str(place)) as watch:
            (place / "new").touch()
            assert next(iter(watch)).path == "new"


def test_it_is_used_in_a_block(place: Path) -> None:
    engine = SyncEngine(data_dir=place / "data", launcher="fake")
    with pytest.raises(InvalidArgument, match="with SyncEngine"):
        engine.list()
    with engine:
        assert engine.list() == []
        with pytest.raises(InvalidArgument, match="started already"), engine:
            raise AssertionError("it was started twice")
    with pytest.raises(InvalidArgument, match="not running"):
        engine.list()


FRONTED: list[tuple[type, type, set[str]]] = [
    (Engine, SyncEngine, {"start", "close", "end_with"}),
    (
        Sandbox,
        SyncSandbox,
        {"prepare", "claim", "keep", "kill_now", "require_alive", "require_usable"},
    ),
    (Commands, SyncCommands, set()),
    (CommandHandle, SyncCommandHandle, {"deliver", "deliver_in", "has_callbacks"}),
    (Files, SyncFiles, set()),
    (Ptys, SyncPtys, set()),
    (PtyHandle, SyncPtyHandle, set()),
    (Templates, SyncTemplates, set()),
    (SandboxNetwork, SyncNetwork, {"open", "close"}),
    (Watch, SyncWatch, {"open"}),
]
"""Each class, its front, and what of it is for the engine's own use."""


@pytest.mark.parametrize(("target", "front", "internal"), FRONTED)
def test_the_front_has_what_the_engine_has(target: type, front: type, internal: set[str]) -> None:
    public = {name for name in dir(target) if not name.startswith("_")} - internal
    assert public - set(dir(front)) == set()
    for name in public:
        ours = getattr(front, name)
        called = ours._like if isinstance(ours, Method) else ours
        assert (called.__doc__ or "").strip(), name


def test_what_a_front_gives_has_a_type(place: Path, template: Template) -> None:
    """Read by mypy first of all: no Any may reach a user."""
    with SyncEngine(data_dir=place / "data", launcher="fake") as engine:
        sandbox = engine.create(template, timeout=60.0)
        assert_type(sandbox, SyncSandbox)
        assert_type(engine.list(), list[SandboxInfo])
        assert_type(sandbox.commands.run("true"), CommandResult)
        handle = sandbox.commands.run(["true"], background=True, tag="t")
        assert_type(handle, SyncCommandHandle)
        assert_type(handle.wait(), CommandResult)
        assert_type(sandbox.files.read("/etc/hosts", "bytes"), bytes)
        assert_type(sandbox.files.list("/", depth=1), list[EntryInfo])
        assert_type(engine.templates.names(), list[str])
        with pytest.raises(TypeError):
            sandbox.commands.start("true", colour="red")  # type: ignore[call-arg]
        with pytest.raises(TypeError):
            sandbox.files.write("/x", 3)  # type: ignore[arg-type]


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
    anyio.run(eventually, lambda: threading.active_count() == threads)  # workers end by themselves
    assert list((place / "data/owners").iterdir()) == []
