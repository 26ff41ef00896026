"""Bash cells: the shell's state, its exit statuses, and what would end it."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest
from contexts_kit import OpenContext, Running

from atoll.model import KilledBy

pytestmark = pytest.mark.anyio

STATE = (
    "x=5; declare -A map=([a]=1); f() { echo f $1; }; alias greet='echo hi'; export E=e; cd /usr"
)
LOOK = "echo $x ${map[a]} $E $PWD; f 1; greet"
SEEN = "5 1 e /usr\nf 1\nhi\n"


@pytest.fixture
async def context(open_context: OpenContext, bash: list[str], tmp_path: Path) -> Running:
    return await open_context(bash, cwd=tmp_path)


async def status(context: Running, code: str) -> str | None:
    error = (await context.run(code)).error
    assert error is None or error.name == "ExitStatus"
    return error.value if error else None


async def test_state_outlives_cells(context: Running) -> None:
    await context.said(STATE)
    assert await context.said(LOOK) == SEEN


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("true", None),
        ("false", "1"),
        ("exit 3", "3"),
        ("exit", None),
        ("set -e; false; echo not reached; set +e", "1"),
        ("not_a_command_at_all", "127"),
        ("if", "2"),
        ("kill -TERM $$", "143"),
        ("set -u; echo $nothing", "127"),
        ("break; continue; break 7", None),
        ("(exit 4)", "4"),
    ],
)
async def test_exit_statuses_and_the_state_after_them(
    context: Running, code: str, expected: str | None
) -> None:
    await context.said(STATE)
    assert await status(context, code) == expected
    assert await context.said(f"set +eu; {LOOK}") == SEEN


async def test_state_survives_an_interrupt(context: Running) -> None:
    await context.said(STATE)
    for code in ("sleep 60", "while :; do :; done", "g() { sleep 60; echo after; }; g"):
        execution = await context.run(code, timeout=0.2)
        assert execution.killed_by is KilledBy.WALL
        assert execution.logs.stdout == []
        assert await context.said(LOOK) == SEEN


async def test_interrupts_at_any_moment_lose_neither_state_nor_cells(context: Running) -> None:
    await context.said(STATE)
    for number in range(60):
        await context.run(": nothing", timeout=number * 0.00003)
        assert await context.said(LOOK) == SEEN


async def test_an_interrupt_between_cells_does_nothing(context: Running) -> None:
    await context.said(STATE)
    for _ in range(2):
        os.killpg(context.process.pid, signal.SIGINT)
        assert await context.said(LOOK) == SEEN


async def test_a_shell_that_ends_between_cells_is_replaced(context: Running) -> None:
    await context.said(STATE)
    for _ in range(5):
        pid = int(await context.said("echo $$"))
        os.kill(pid, signal.SIGINT)
        assert await context.said(LOOK) == SEEN


async def test_a_killed_shell_is_replaced(context: Running) -> None:
    assert await status(context, "kill -KILL $$") == "137"
    assert await context.said("echo again") == "again\n"
    assert await context.said("exec echo replaced") == "replaced\n"
    assert await context.said("echo again") == "again\n"


async def test_messages_name_the_cells_line(context: Running) -> None:
    execution = await context.run("true\nnope")
    assert execution.logs.stderr == ["bash: line 2: nope: command not found\n"]


async def test_streams_and_descriptors(context: Running) -> None:
    execution = await context.run("echo out; echo err >&2; cat; ls /proc/self/fd")
    assert "".join(execution.logs.stdout) == "out\n0\n1\n2\n3\n"
    assert execution.logs.stderr == ["err\n"]


async def test_tracing_shows_the_cell_alone(context: Running) -> None:
    await context.run("set -x")
    traced = await context.run("echo a")
    assert "".join(traced.logs.stderr).count("\n") == 1
    await context.run("set +x")
    assert (await context.run("echo a")).logs.stderr == []


async def test_environment_and_directory_of_one_run(context: Running, tmp_path: Path) -> None:
    await context.run("export A=before")
    env = {"A": "it's", "B": "new\nline"}
    inside = await context.run('echo "$A$B"; pwd; exit 2', env=env, cwd="/usr")
    assert "".join(inside.logs.stdout) == "it'snew\nline\n/usr\n"
    assert inside.error is not None
    assert await context.said('echo "$A${B-unset}"; pwd') == f"beforeunset\n{tmp_path}\n"
    missing = await context.run("echo not reached", env={"A": "c", "B": "d"}, cwd="/not/there")
    assert missing.error is not None
    assert missing.logs.stdout == []
    assert await context.said('echo "$A${B-unset}"; pwd') == f"beforeunset\n{tmp_path}\n"
    await context.run("sleep 60", env={"A": "c", "B": "d"}, cwd="/usr", timeout=0.1)
    assert await context.said('echo "$A${B-unset}"; pwd') == f"beforeunset\n{tmp_path}\n"


async def test_programs_end_when_nobody_reads_them(context: Running) -> None:
    execution = await context.run("yes | head -n 1; echo ${PIPESTATUS[@]}")
    assert "".join(execution.logs.stdout) == "y\n141 0\n"


@pytest.mark.parametrize(
    ("code", "env", "name"),
    [("a\0b", {}, "InvalidCode"), ("true", {"a-b": "c"}, "InvalidEnvironment")],
)
async def test_what_no_shell_can_take(
    context: Running, code: str, env: dict[str, str], name: str
) -> None:
    error = (await context.run(code, env=env)).error
    assert error is not None
    assert error.name == name
    assert await context.said("echo on") == "on\n"


async def test_a_large_cell(context: Running) -> None:
    code = "x=" + "a" * (4 << 20) + "\necho ${#x}"
    assert await context.said(code) == f"{4 << 20}\n"


async def test_a_shell_that_is_not_bash(
    open_context: OpenContext, bash: list[str], tmp_path: Path
) -> None:
    for tool in ("cat", "sed", "sleep"):
        found = shutil.which(tool)
        assert found is not None
        (tmp_path / tool).symlink_to(found)
    context = await open_context(bash, env={"PATH": str(tmp_path)})
    await context.said("x=5; cd /usr")
    assert await status(context, "exit 3") == "3"
    assert await context.said("echo $x $PWD") == "5 /usr\n"
    assert (await context.run("sleep 60", timeout=0.2)).killed_by is KilledBy.WALL
    assert await context.said("echo $x $PWD") == "5 /usr\n"
