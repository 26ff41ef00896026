"""Sandboxes of a named owner outlive it, until it comes back or is overdue."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import anyio
import pytest

from atoll.engine import Engine
from atoll.engine.owner import reap_dead
from atoll.engine.vault import Vault, close_entries, is_held
from atoll.model import ContextDied, SandboxInfo, SandboxState
from atoll.testing.waiting import eventually

pytestmark = pytest.mark.anyio

_PROGRAM = """
import sys, anyio
from atoll.engine import Engine
from atoll.model import Limits, Template

async def main(place):
    template = Template("test", (), cwd=place, python=sys.executable)
    async with Engine(data_dir=place + "/data", launcher="fake", owner="daemon") as engine:
        sandbox = await engine.create(
            template, timeout=1000, metadata={"a": "b"}, env={"C": "d"}, limits=Limits(wall=5000)
        )
        await sandbox.run_code("x=kept", language="bash")
        busy = await sandbox.create_context("bash")
        await sandbox.commands.start("echo before; read line; echo got $line", stdin=True, tag="t")
        await sandbox.commands.start(["sleep", "1000"], tag="sleeps")
        short = await engine.create(template)
        await short.pause()
        print(sandbox.id, busy.id, short.id, flush=True)
        await sandbox.run_code("sleep 1000", context=busy)

anyio.run(main, sys.argv[1])
"""


@pytest.fixture
def killed(place: Path) -> list[str]:
    """Ids of a sandbox, of a context with a cell in it, and of another sandbox."""
    program = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, str(place)], stdout=subprocess.PIPE, text=True
    )
    assert program.stdout is not None
    with program.stdout:
        ids = program.stdout.readline().split()
    anyio.run(anyio.sleep, 0.3)
    program.send_signal(signal.SIGKILL)
    program.wait()
    return ids


async def test_the_next_life_of_an_owner_adopts_its_sandboxes(
    place: Path, killed: list[str]
) -> None:
    assert reap_dead(place / "data") == []
    async with Engine(data_dir=place / "data", launcher="fake", owner="daemon") as engine:
        assert [info.id for info in engine.list()] == [killed[0], killed[2]]
        sandbox = await engine.get(killed[0])
        assert_as_promised(sandbox.info)
        assert (await sandbox.commands.run("echo $C")).stdout == "d\n"
        assert (await sandbox.run_code("echo $x", language="bash")).logs.stdout == ["kept\n"]
        with pytest.raises(ContextDied):
            await sandbox.run_code("true", context=killed[1])
        handle = sandbox.commands.connect("t")
        await handle.send_stdin("line\n")
        # What the former process had read is lost with it.
        assert (await handle.wait()).stdout == "got line\n"
        assert await sandbox.commands.kill("sleeps")
        paused = await engine.get(killed[2])
        assert paused.info.state is SandboxState.PAUSED
        await paused.resume()
        assert (await paused.commands.run(["true"])).ok
        assert await paused.kill()
        assert (await sandbox.files.exists("/")) and sandbox.is_running()
    assert list((place / "data/owners").iterdir()) == []


def assert_as_promised(info: SandboxInfo) -> None:
    assert (info.metadata, info.launcher) == ({"a": "b"}, "fake")
    assert info.expires_at is not None
    assert 900 < info.expires_at - info.started_at <= 1001


async def test_adopted_sandboxes_can_be_adopted_again(place: Path, killed: list[str]) -> None:
    engine = Engine(data_dir=place / "data", launcher="fake", owner="daemon")
    await engine.start()
    before = (await engine.get(killed[0])).info
    # As if it were killed here: the vault sees the end of its engine and nothing else.
    assert engine._vault._sock is not None
    engine._vault._sock.close()
    again, entries = Vault.return_to(place / "data/owners/daemon")
    assert before.id in [entry.key for entry in entries]
    close_entries(entries)
    again.end()
    engine._vault = Vault()
    await engine.close()


async def test_those_who_are_not_called_for_end_in_time(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = Path(tempfile.mkdtemp(dir=place))
    kept = Vault.start(directory, patience=0.2)
    read, write = os.pipe()
    kept.hold("a", {}, [write])
    os.close(write)
    assert is_held(directory)
    assert kept._sock is not None
    kept._sock.close()
    await eventually(lambda: not is_held(directory))
    assert os.read(read, 1) == b""
    kept.end()
    os.close(read)


async def test_a_vault_lets_go_of_what_is_dropped(place: Path) -> None:
    kept = Vault.start(place)
    pipes = {key: os.pipe() for key in ("a", "a:p1", "ab", "b")}
    for key, (_, write) in pipes.items():
        kept.hold(key, {"n": key}, [write])
        os.close(write)
    kept.note("ab", {"n": "new"})
    kept.drop("a")
    kept._sock.close()  # type: ignore[union-attr]
    again, entries = Vault.return_to(place)
    assert [(entry.key, entry.state) for entry in entries] == [
        ("ab", {"n": "new"}),
        ("b", {"n": "b"}),
    ]
    close_entries(entries)
    assert os.read(pipes["a"][0], 1) == b"" == os.read(pipes["a:p1"][0], 1)
    again.end()
    assert os.read(pipes["b"][0], 1) == b""
    kept.end()
    assert not is_held(place)
    for read, _ in pipes.values():
        os.close(read)


async def test_an_unnamed_owner_has_no_vault(place: Path) -> None:
    async with Engine(data_dir=place / "data", launcher="fake"):
        (directory,) = (place / "data/owners").iterdir()
        assert not is_held(directory)


async def test_state_that_is_too_large_is_not_kept(place: Path) -> None:
    kept = Vault.start(place)
    kept.hold("a", {"env": "x" * 100_000}, [])
    kept._sock.close()  # type: ignore[union-attr]
    again, entries = Vault.return_to(place)
    assert entries == []
    again.end()
    kept.end()
