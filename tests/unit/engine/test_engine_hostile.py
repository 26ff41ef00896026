"""A guest that breaks the protocol harms its own sandbox, and nothing and nobody else."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest
from engine_kit import open_descriptors

from atoll.engine import Engine, Sandbox, processes
from atoll.launch.fake import FakeLauncher, FakeSandbox
from atoll.model import (
    AtollError,
    GuestBroken,
    InvalidArgument,
    SandboxDied,
    SandboxError,
    SandboxSpec,
    Template,
)
from atoll.testing.waiting import eventually

pytestmark = pytest.mark.anyio

_PROGRAM = Path(__file__).parent / "hostile_guest.py"


class MixedLauncher(FakeLauncher):
    """Starts the guest that the template's name says, and the real one for any other name."""

    async def launch(self, spec: SandboxSpec) -> FakeSandbox:
        misdeed = spec.template.name.removeprefix("hostile-")
        if misdeed == spec.template.name:
            return await super().launch(spec)
        program = [sys.executable, str(_PROGRAM), misdeed]
        return await FakeLauncher(self._directory, guest=program).launch(spec)


@pytest.fixture
async def mixed(place: Path) -> AsyncIterator[Engine]:
    before = open_descriptors()
    async with Engine(data_dir=place / "data", launcher=MixedLauncher(place)) as engine:
        yield engine
    assert open_descriptors() == before


@pytest.fixture
async def neighbour(mixed: Engine, template: Template) -> AsyncIterator[Sandbox]:
    sandbox = await mixed.create(template)
    handle = await sandbox.commands.start(["cat"], stdin=True)
    yield sandbox
    await handle.send_stdin("alive")
    await handle.close_stdin()
    assert (await handle.wait()).stdout == "alive"


async def hostile(engine: Engine, misdeed: str) -> Sandbox:
    return await engine.create(Template(f"hostile-{misdeed}", ()))


@pytest.mark.parametrize(
    "misdeed",
    ["giant", "wrong_json", "wrong_pid", "stray_exit", "descriptors", "flood", "refusal"],
)
async def test_a_broken_guest_ends_its_own_sandbox(
    mixed: Engine, neighbour: Sandbox, misdeed: str
) -> None:
    sandbox = await hostile(mixed, misdeed)
    with pytest.raises(GuestBroken) as caught:
        await sandbox.commands.run(["true"])
    assert caught.value.sandbox_id == sandbox.id
    await sandbox.gone()
    assert [info.id for info in mixed.list()] == [neighbour.id]
    with pytest.raises(GuestBroken):
        await sandbox.files.read("/etc/passwd")


async def test_one_pid_for_two_processes_breaks_a_guest(mixed: Engine, neighbour: Sandbox) -> None:
    sandbox = await hostile(mixed, "same_pid")
    first = await sandbox.commands.start(["true"])
    with pytest.raises(GuestBroken, match="impossible pid"):
        await sandbox.commands.start(["true"])
    with pytest.raises(GuestBroken):
        await first.wait()


async def test_silence_ends_in_time(mixed: Engine, neighbour: Sandbox) -> None:
    sandbox = await hostile(mixed, "silence")
    request = sandbox.channel.request("start", {}, timeout=0.1)
    with pytest.raises(GuestBroken, match="did not answer"):
        await request
    await sandbox.gone()


async def test_an_end_that_is_never_reported_breaks_a_guest(
    mixed: Engine, neighbour: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "DEATH_SECONDS", 0.1)
    monkeypatch.setattr(processes, "GRACE_SECONDS", 0.1)
    sandbox = await hostile(mixed, "never_ends")
    with anyio.fail_after(5), pytest.raises(GuestBroken, match="SIGKILL"):
        await sandbox.commands.run(["true"], timeout=0.1)
    await sandbox.gone()


async def test_a_start_that_is_cancelled_does_not_wait_for_a_silent_guest_forever(
    mixed: Engine, neighbour: Sandbox
) -> None:
    sandbox = await hostile(mixed, "silence")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(sandbox.commands.run, ["true"])
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
        with anyio.CancelScope(shield=True):
            await sandbox.kill(grace=0)


@pytest.mark.parametrize(
    ("misdeed", "expected"),
    [
        ("worker_wrong_json", GuestBroken),
        ("worker_wrong_types", GuestBroken),
        ("worker_endless_line", SandboxError),
        ("worker_silent", SandboxError),
        ("worker_huge", InvalidArgument),
        ("worker_error_types", GuestBroken),
        ("worker_deep", GuestBroken),
    ],
)
async def test_a_hostile_file_worker_is_an_error_of_its_own_sandbox(
    mixed: Engine, neighbour: Sandbox, misdeed: str, expected: type[AtollError]
) -> None:
    sandbox = await hostile(mixed, misdeed)
    with anyio.fail_after(10), pytest.raises(expected):
        await sandbox.files.read("/x")
    if expected is GuestBroken:
        await sandbox.gone()
        with pytest.raises(GuestBroken):
            await sandbox.files.stat("/x")
        return
    with anyio.fail_after(10), pytest.raises(AtollError):
        await sandbox.files.write("/x", b"x" * 300_000)


async def test_a_guest_that_crashes_is_a_dead_sandbox(mixed: Engine, neighbour: Sandbox) -> None:
    sandbox = await mixed.create(Template("hostile-no-such-misdeed", ()))
    with pytest.raises(SandboxDied):
        await sandbox.commands.run(["true"])
    await eventually(lambda: len(mixed.list()) == 1)
