"""The log of each sandbox, the audit log, and what never appears in either."""

from __future__ import annotations

import json
import logging
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from engine_kit import open_descriptors

from atoll.engine import Engine, LogEntry, Logging, Sandbox, bound
from atoll.engine.logs import SandboxLog
from atoll.model import OwnerError, Template

pytestmark = pytest.mark.anyio


@pytest.fixture
async def logged(place: Path) -> AsyncIterator[Engine]:
    logs = Logging(place / "log", audit=place / "audit", sandbox_size="20K")
    async with Engine(data_dir=place / "data", launcher="fake", logging=logs) as engine:
        yield engine


async def entries(sandbox: Sandbox, **options: Any) -> list[LogEntry]:
    return [entry async for entry in sandbox.logs(**options)]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


async def test_output_and_what_happened_are_in_order(engine: Engine, template: Template) -> None:
    sandbox = await engine.create(template)
    await sandbox.commands.run("echo out; exec >&2; echo err; exit 3")
    await sandbox.run_code("echo cell", language="bash")
    await sandbox.pause()
    await sandbox.resume()
    await sandbox.kill()
    found = [entry.event or (entry.stream, entry.message) for entry in await entries(sandbox)]
    assert found == [
        "sandbox.created",
        "process.started",
        ("stdout", "out\n"),
        ("stderr", "err\n"),
        "process.ended",
        "cell.started",
        ("stdout", "cell\n"),
        "sandbox.paused",
        "sandbox.resumed",
        "sandbox.kill",
        "sandbox.ended",
    ]


async def test_each_entry_belongs_to_the_request_that_asked_for_it(
    engine: Engine, template: Template
) -> None:
    with bound(request="create"):
        sandbox = await engine.create(template)
    with bound(request="first"):
        await sandbox.commands.run(["echo", "1"])
    with bound(request="second"):
        await sandbox.commands.run(["echo", "2"])
        await sandbox.run_code("echo 3", language="bash")
    os.kill(sandbox.launched.pid, signal.SIGKILL)
    await sandbox.gone()
    found = await entries(sandbox)
    by_request = {
        request: [e.message for e in found if e.stream and e.request == request]
        for request in ("create", "first", "second")
    }
    assert by_request == {"create": [], "first": ["1\n"], "second": ["2\n", "3\n"]}
    ends = [e for e in found if e.event == "process.ended"]
    assert [e.request for e in ends] == ["first", "second"]
    assert found[-1].event == "sandbox.ended"
    assert found[-1].request is None
    # One execution for each command and cell, and the same from its start to its end.
    executions = [e.execution for e in found if e.execution]
    assert len(set(executions)) == 3
    starts = [e for e in found if e.event == "process.started"]
    assert [e.execution for e in starts] == [e.execution for e in ends]


async def test_a_reader_follows_until_the_sandbox_has_ended(
    engine: Engine, template: Template
) -> None:
    sandbox = await engine.create(template)
    seen: list[str] = []
    async with anyio.create_task_group() as tasks:

        async def follow() -> None:
            seen.extend([entry.message async for entry in sandbox.logs(follow=True)])

        tasks.start_soon(follow)
        for number in range(3):
            await sandbox.commands.run(["echo", str(number)])
        await sandbox.kill()
    assert [message for message in seen if message in ("0\n", "1\n", "2\n")] == [
        "0\n",
        "1\n",
        "2\n",
    ]
    assert seen[-1].startswith("ended")


async def test_a_late_reader_goes_on_where_another_stopped(
    engine: Engine, template: Template
) -> None:
    sandbox = await engine.create(template)
    await sandbox.commands.run(["echo", "one"])
    last = (await entries(sandbox))[-1].number
    await sandbox.commands.run(["echo", "two"])
    assert [e.message for e in await entries(sandbox, since=last + 1) if e.stream] == ["two\n"]


async def test_the_log_of_a_sandbox_stays_within_its_bound(
    logged: Engine, template: Template
) -> None:
    sandbox = await logged.create(template)
    await sandbox.commands.run("head -c 3000000 /dev/zero | tr '\\0' x; echo the end")
    kept = await entries(sandbox)
    assert sum(len(entry.message) for entry in kept) <= 20 << 10
    assert kept[0].number > 1, "the oldest made room"
    text = "".join(entry.message for entry in kept if entry.stream)
    assert text.endswith("xthe end\n")


def test_many_small_entries_are_bounded_too() -> None:
    log = SandboxLog("box", 10_000, lambda: 0.0)
    source = log.source()
    for _ in range(1000):
        source.add("stdout", b"x")
    assert len(log.entries()) < 30


def test_a_character_that_came_in_two_pieces_is_whole() -> None:
    log = SandboxLog("box", 10_000, lambda: 0.0)
    source = log.source(7)
    for piece in ("é".encode()[:1], "é".encode()[1:] + b"\xff"):
        source.add("stdout", piece)
    assert [(entry.message, entry.pid) for entry in log.entries()] == [("é\ufffd", 7)]


async def test_the_file_says_who_did_what_where(
    logged: Engine, template: Template, place: Path
) -> None:
    with bound(actor="ada", request="r1"):
        sandbox = await logged.create(template)
        await sandbox.commands.run(["true"])
    sandbox.set_timeout(60)
    await sandbox.kill()
    await logged.close()
    audit = [(line["actor"], line["event"]) for line in lines(place / "audit")]
    assert audit == [
        ("ada", "sandbox.created"),
        ("ada", "process.started"),
        (f"uid:{os.getuid()}", "sandbox.lease"),
        (f"uid:{os.getuid()}", "sandbox.kill"),
    ]
    ended = [line for line in lines(place / "log") if line["event"] == "process.ended"]
    assert [(line["sandbox"], line["request"], line["actor"]) for line in ended] == [
        (sandbox.id, "r1", "ada")
    ]
    assert ended[0]["execution"]


async def test_no_secret_of_a_client_is_in_any_log(
    place: Path, template: Template, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    secret = "hunter2-is-no-good-password"
    logs = Logging(place / "log", level="DEBUG")
    async with Engine(data_dir=place / "data", launcher="fake", logging=logs) as engine:
        sandbox = await engine.create(
            template, env={"PLAIN": secret, "API_KEY": secret}, metadata={"api_key": secret}
        )
        await sandbox.commands.run(["true", secret], env={"TOKEN": secret})
        await sandbox.commands.run(f"true {secret}")
        await sandbox.commands.run(["cat"], stdin=secret.upper())
        await sandbox.run_code(f"MINE={secret}", language="bash", env={"X": secret})
        found = await entries(sandbox)
    assert secret not in (place / "log").read_text()
    assert secret not in caplog.text
    assert secret not in str(found)
    assert "API_KEY" in (place / "log").read_text(), "names are shown"


async def test_a_log_that_another_process_writes_stops_the_start_and_leaves_nothing(
    place: Path,
) -> None:
    before = open_descriptors()
    with Logging(place / "log"):
        engine = Engine(data_dir=place / "data", launcher="fake", logging=Logging(place / "log"))
        with pytest.raises(OwnerError, match="another process writes the log"):
            await engine.start()
    assert open_descriptors() == before
    assert list((place / "data/owners").iterdir()) == []
