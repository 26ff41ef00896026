"""Owners: locks, journals, reaping the dead, and the socket that others ask."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from atoll.engine import Engine, Sandbox
from atoll.engine.owner import Owner, default_data_dir, read_journal, reap_dead, start_time
from atoll.engine.owner_client import Owners
from atoll.model import (
    FileNotFound,
    InvalidArgument,
    OwnerError,
    SandboxNotFound,
    Template,
    UnknownUser,
)
from atoll.testing.waiting import eventually

pytestmark = pytest.mark.anyio


def abandon(owner: Owner) -> None:
    """End as SIGKILL ends an owner: nothing is removed, the lock is free."""
    owner.journal.close()
    os.close(owner._lock)


def test_the_data_directory_is_named_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATOLL_DATA_DIR", "/somewhere")
    assert default_data_dir() == Path("/somewhere")
    monkeypatch.delenv("ATOLL_DATA_DIR")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_data_dir() == Path("/var/lib/atoll")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_DATA_HOME", "/home/me/share")
    assert default_data_dir() == Path("/home/me/share/atoll")
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert default_data_dir() == Path("/home/me/.local/share/atoll")


def test_a_live_owner_is_not_reaped(tmp_path: Path) -> None:
    owner = Owner.acquire(tmp_path)
    assert reap_dead(tmp_path) == []
    assert owner.directory.is_dir()
    owner.release(clean=True)
    assert not owner.directory.exists()


def test_a_dead_owner_is_removed_with_all_that_it_kept(tmp_path: Path) -> None:
    owner = Owner.acquire(tmp_path, "daemon")
    deep = owner.launch_directory
    for _ in range(50):
        deep = deep / "d"
        deep.mkdir()
    (deep / "file").touch()
    deep.chmod(0)
    abandon(owner)
    assert reap_dead(tmp_path) == ["daemon"]
    assert list((tmp_path / "owners").iterdir()) == []
    Owner.acquire(tmp_path, "daemon").release(clean=True)


def test_the_same_name_takes_over_an_empty_directory(tmp_path: Path) -> None:
    owner = Owner.acquire(tmp_path, "daemon")
    left = subprocess.Popen(["sleep", "100"])
    owner.journal.launched("a", left.pid, "base")
    (owner.launch_directory / "stage").mkdir()
    abandon(owner)
    again = Owner.acquire(tmp_path, "daemon")
    assert left.wait(5) == -signal.SIGKILL
    assert list(again.launch_directory.iterdir()) == []
    assert read_journal(again.directory / "journal.jsonl") == (None, {})
    again.release(clean=True)


def test_a_process_of_a_dead_owner_is_killed_and_no_other(tmp_path: Path) -> None:
    left = subprocess.Popen(["sleep", "100"])
    other = subprocess.Popen(["sleep", "100"])
    owner = Owner.acquire(tmp_path)
    owner.journal.launched("a", left.pid, "base")
    owner.journal.launched("b", other.pid, "base")
    owner.journal.launched("gone", other.pid, "base")
    owner.journal.gone("gone")
    abandon(owner)
    # As if the pid had been used again: another start time.
    journal = owner.directory / "journal.jsonl"
    started = start_time(other.pid)
    assert started is not None
    lines = [
        line.replace(started, str(int(started) - 1)) if f'"pid": {other.pid}' in line else line
        for line in journal.read_text().splitlines()
    ]
    journal.write_text("\n".join(lines))
    try:
        assert reap_dead(tmp_path) == [owner.id]
        assert left.wait(5) == -signal.SIGKILL
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_a_journal_that_ends_in_the_middle_of_a_line_is_read(tmp_path: Path) -> None:
    owner = Owner.acquire(tmp_path)
    owner.journal.launcher("fake")
    owner.journal.launched("a", 1, "base")
    owner.journal.launched("b", 1, "base")
    abandon(owner)
    path = owner.directory / "journal.jsonl"
    path.write_text(path.read_text()[:-20] + "\n[]\n{}\nnull\n\xff")
    launcher, alive = read_journal(path)
    assert (launcher, list(alive)) == ("fake", ["a"])


def test_an_owner_name_is_a_plain_word(tmp_path: Path) -> None:
    for name in ("../x", "", "a/b", "A", "x" * 60, "."):
        with pytest.raises(InvalidArgument):
            Owner.acquire(tmp_path, name)


def test_a_lock_whose_directory_was_just_reaped_does_not_count(tmp_path: Path) -> None:
    owner = Owner.acquire(tmp_path, "daemon")
    stale = os.open(owner.directory / "lock", os.O_RDWR)
    abandon(owner)
    assert reap_dead(tmp_path) == ["daemon"]
    fcntl.flock(stale, fcntl.LOCK_EX | fcntl.LOCK_NB)
    again = Owner.acquire(tmp_path, "daemon")
    with pytest.raises(OwnerError):
        Owner.acquire(tmp_path, "daemon")
    os.close(stale)
    again.release(clean=True)


def test_others_cannot_look_into_the_data_directory(tmp_path: Path) -> None:
    data = tmp_path / "data"
    owner = Owner.acquire(data)
    assert stat.S_IMODE(data.stat().st_mode) == 0o700
    assert stat.S_IMODE(owner.directory.stat().st_mode) == 0o700
    owner.release(clean=True)


@pytest.fixture
async def owners(place: Path, engine: Engine) -> Owners:
    return Owners(place / "data")


async def test_ps_sees_the_sandboxes_of_every_owner(
    owners: Owners, sandbox: Sandbox, place: Path, template: Template
) -> None:
    await sandbox.commands.start(["sleep", "100"], tag="t")
    async with Engine(data_dir=place / "data", launcher="fake", owner="other") as other:
        second = await other.create(template, metadata={"a": "b"})
        listed = await owners.ps()
        assert [owned.info.id for owned in listed] == [sandbox.id, second.id]
        assert (listed[1].owner, listed[1].info) == ("other", second.info)
        assert [process.tag for process in listed[0].processes] == ["t"]
        assert listed[0].owner_pid == os.getpid()
        assert await owners.kill(second.id[:12])
        assert not second.is_running()
    assert len(await owners.ps()) == 1


async def test_an_owner_that_is_dead_or_silent_hides_nobody(
    owners: Owners, sandbox: Sandbox, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atoll.engine.owner_client.ANSWER_SECONDS", 0.2)
    silent = place / "data/owners/silent"
    silent.mkdir()
    dead = place / "data/owners/dead"
    dead.mkdir()
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as closed:
        listener.bind(str(silent / "socket"))
        listener.listen()
        closed.bind(str(dead / "socket"))
        assert [owned.info.id for owned in await owners.ps()] == [sandbox.id]


async def test_exec_passes_streams_and_the_exit_code(owners: Owners, sandbox: Sandbox) -> None:
    line = "cat; echo err >&2; echo $A; exit 4"
    async with owners.exec(sandbox.id, line, env={"A": "b"}) as process:
        await process.send(b"in" * 100_000)
        await process.close_input()
        out = {"stdout": b"", "stderr": b""}
        async for stream, data in process.output():
            out[stream] += data
        assert (await process.wait()).exit_code == 4
    assert out == {"stdout": b"in" * 100_000 + b"b\n", "stderr": b"err\n"}


async def test_exec_on_a_terminal(owners: Owners, sandbox: Sandbox) -> None:
    shell = ["/bin/bash", "--norc"]
    async with owners.exec(sandbox.id, shell, terminal=(30, 100)) as process:
        await process.resize(120, 40)
        await process.send(b"stty size; exit 3\n")
        seen = b"".join([data async for _, data in process.output()])
        assert b"40 120" in seen
        assert (await process.wait()).exit_code == 3


async def test_signals_and_the_end_of_time_travel(owners: Owners, sandbox: Sandbox) -> None:
    async with owners.exec(sandbox.id, "trap 'exit 9' USR1; while :; do sleep 0.01; done") as one:
        await anyio.sleep(0.1)
        await one.send_signal("SIGUSR1")
        assert (await one.wait()).exit_code == 9
    async with owners.exec(sandbox.id, ["sleep", "100"]) as two:
        await two.stop()
        assert (await two.wait()).signal == "SIGTERM"


async def test_what_an_asker_started_ends_with_it(owners: Owners, sandbox: Sandbox) -> None:
    async with owners.exec(sandbox.id, ["sleep", "100"]):
        assert len(sandbox.commands.list()) == 1
    await eventually(lambda: sandbox.commands.list() == [])


async def test_files_go_in_and_out(owners: Owners, sandbox: Sandbox, place: Path) -> None:
    data = os.urandom(3 << 20)

    async def pieces() -> AsyncIterator[bytes]:
        yield data

    entry = await owners.write(sandbox.id, f"{place}/file", pieces(), mode=0o640)
    assert (entry.size, entry.mode) == (len(data), 0o640)
    assert b"".join([p async for p in owners.read(sandbox.id, f"{place}/file")]) == data


async def test_errors_are_typed_on_the_other_side(owners: Owners, sandbox: Sandbox) -> None:
    for id in ("nope", ""):
        with pytest.raises(SandboxNotFound):
            await owners.kill(id)
    with pytest.raises(FileNotFound):
        async for _ in owners.read(sandbox.id, "/no/such"):
            pass
    with pytest.raises(UnknownUser):
        async with owners.exec(sandbox.id, ["true"], user="nobody-at-all"):
            pass


async def test_the_socket_is_for_its_own_user(
    owners: Owners, engine: Engine, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path,) = (place / "data/owners").glob("*/socket")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    monkeypatch.setattr("atoll.engine.owner_socket.os.geteuid", lambda: 12345)
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.connect(str(path))
        stranger.setblocking(False)
        await anyio.wait_readable(stranger)
        assert stranger.recv(10) == b""


async def test_rubbish_on_the_socket_harms_nobody(
    owners: Owners, sandbox: Sandbox, place: Path
) -> None:
    (path,) = (place / "data/owners").glob("*/socket")
    for rubbish in (b"r\0\0\0\1{", b"r\xff\xff\xff\xff", b"r\0\0\0\2[]", b"r\0\0\0\2{}", b"", b"x"):
        with socket.socket(socket.AF_UNIX) as asker:
            asker.connect(str(path))
            asker.send(rubbish)
    assert [owned.info.id for owned in await owners.ps()] == [sandbox.id]


async def test_a_deep_data_directory_still_has_its_socket(place: Path, template: Template) -> None:
    deep = place / ("x" * 100) / ("y" * 100)
    async with Engine(data_dir=deep, launcher="fake") as engine:
        sandbox = await engine.create(template)
        assert [owned.info.id for owned in await Owners(deep).ps()] == [sandbox.id]


def test_pids_that_are_gone_have_no_start_time() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert start_time(process.pid) is None
    assert json.loads(start_time(os.getpid()) or "") > 0
