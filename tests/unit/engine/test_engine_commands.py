"""Commands over the launcher without walls: streams, ends, limits, cancellation."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from atoll.engine import Engine, Sandbox
from atoll.engine.commands import CommandHandle
from atoll.launch.fake import FakeLauncher
from atoll.model import (
    FileNotFound,
    InvalidArgument,
    KilledBy,
    Limits,
    ProcessLimitReached,
    ProcessNotFound,
    SandboxDied,
    Template,
    UnknownSignal,
    UnknownUser,
)
from atoll.testing.waiting import eventually

pytestmark = pytest.mark.anyio


async def running(sandbox: Sandbox) -> list[int]:
    """What the guest itself says is alive."""
    answer = await sandbox.channel.request("processes", {})
    return [process["pid"] for process in answer["processes"]]


async def test_a_result_has_both_streams_and_the_exit_code(sandbox: Sandbox) -> None:
    result = await sandbox.commands.run("echo out; echo err >&2; exit 3")
    assert (result.stdout, result.stderr, result.exit_code) == ("out\n", "err\n", 3)
    assert (result.ok, result.signal, result.killed_by) == (False, None, None)
    assert 0 < result.duration < 60


async def test_a_list_runs_without_a_shell(sandbox: Sandbox) -> None:
    assert (await sandbox.commands.run(["echo", "$HOME", "*"])).stdout == "$HOME *\n"


async def test_a_signal_is_named(sandbox: Sandbox) -> None:
    result = await sandbox.commands.run("kill -TERM $$")
    assert (result.exit_code, result.signal) == (143, "SIGTERM")


async def test_env_and_cwd_reach_the_command(sandbox: Sandbox, place: Path) -> None:
    inner = place / "inner"
    inner.mkdir()
    result = await sandbox.commands.run("echo $A; pwd", env={"A": "b c"}, cwd=str(inner))
    assert result.stdout == f"b c\n{inner}\n"


async def test_a_large_environment_reaches_the_command(sandbox: Sandbox) -> None:
    env = {"LARGE": "x" * 100_000}
    assert (await sandbox.commands.run("echo ${#LARGE}", env=env)).stdout == "100000\n"


async def test_input_is_fed_and_ends(sandbox: Sandbox) -> None:
    data = os.urandom(300_000)
    result = await sandbox.commands.run(["wc", "-c"], stdin=data)
    assert result.stdout.strip() == "300000"


async def test_without_input_there_is_an_empty_one(sandbox: Sandbox) -> None:
    assert (await sandbox.commands.run(["cat"])).stdout == ""


async def test_a_command_may_leave_its_input_unread(sandbox: Sandbox) -> None:
    assert (await sandbox.commands.run(["true"], stdin=b"x" * 2_000_000)).ok


async def test_input_is_sent_while_it_runs(sandbox: Sandbox) -> None:
    handle = await sandbox.commands.start(["cat"], stdin=True)
    await handle.send_stdin("a")
    await sandbox.commands.send_stdin(handle.pid, b"b")
    await handle.close_stdin()
    assert (await handle.wait()).stdout == "ab"
    with pytest.raises(ProcessNotFound):
        await handle.send_stdin("c")


async def test_callbacks_get_whole_characters(sandbox: Sandbox) -> None:
    pieces: list[str] = []

    async def keep(text: str) -> None:
        pieces.append(text)

    line = r"printf '\xc3'; sleep 0.05; printf '\xa9'; printf '\xe2\x82'"
    await sandbox.commands.run(line, on_stdout=keep)
    assert "".join(pieces) == "é�"


async def test_an_error_of_a_callback_ends_the_command(sandbox: Sandbox) -> None:
    def fail(text: str) -> None:
        raise LookupError(text)

    with pytest.raises(LookupError, match="x"):
        await sandbox.commands.run("echo x; sleep 100", on_stdout=fail)
    assert sandbox.commands.list() == []


async def test_a_timeout_ends_the_whole_group(sandbox: Sandbox) -> None:
    result = await sandbox.commands.run("sleep 100 & sleep 100", timeout=0.2)
    assert result.killed_by is KilledBy.WALL
    assert result.duration < 1.5
    assert await running(sandbox) == []


async def test_a_timeout_holds_against_ignored_sigterm(sandbox: Sandbox, place: Path) -> None:
    line = (
        f"trap '' TERM; (trap '' TERM; while :; do echo >> {place}/beat; sleep 0.02; done) & wait"
    )
    result = await sandbox.commands.run(line, timeout=0.2)
    assert (result.killed_by, result.signal) == (KilledBy.WALL, "SIGKILL")
    size = (place / "beat").stat().st_size
    await anyio.sleep(0.2)
    assert (place / "beat").stat().st_size == size


async def test_a_timeout_ends_those_of_the_group_that_outlive_its_leader(
    sandbox: Sandbox, place: Path
) -> None:
    line = f"(trap '' TERM; while :; do echo >> {place}/beat; sleep 0.02; done) & sleep 100"
    result = await sandbox.commands.run(line, timeout=0.2)
    assert result.killed_by is KilledBy.WALL
    size = (place / "beat").stat().st_size
    await anyio.sleep(0.2)
    assert (place / "beat").stat().st_size == size


ORPHAN = "(setsid sh -c 'echo $$ > {0}.part; mv {0}.part {0}; exec sleep 1000' &)"


async def orphan_in(file: Path) -> int:
    """The pid of what `ORPHAN` has started."""
    await eventually(file.exists)
    return int(file.read_text())


async def test_a_kill_reaches_what_left_the_session_and_spares_other_commands(
    sandbox: Sandbox, place: Path
) -> None:
    assert (await sandbox.commands.run(ORPHAN.format(place / "other"))).ok
    other = await orphan_in(place / "other")
    handle = await sandbox.commands.start(f"{ORPHAN.format(place / 'mine')}; sleep 1000")
    mine = await orphan_in(place / "mine")
    assert await handle.kill()
    await eventually(lambda: not Path(f"/proc/{mine}").exists())
    assert Path(f"/proc/{other}").exists()
    os.kill(other, signal.SIGKILL)


async def test_a_cancelled_run_leaves_nothing_that_left_its_session(
    sandbox: Sandbox, place: Path
) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(sandbox.commands.run, f"{ORPHAN.format(place / 'mine')}; sleep 1000")
        mine = await orphan_in(place / "mine")
        tasks.cancel_scope.cancel()
    await eventually(lambda: not Path(f"/proc/{mine}").exists())


async def test_a_flood_ends_what_left_the_session_too(sandbox: Sandbox, place: Path) -> None:
    line = f"{ORPHAN.format(place / 'mine')}; until [ -e {place}/mine ]; do :; done; exec yes"
    result = await sandbox.commands.run(line)
    assert result.killed_by is KilledBy.OUTPUT
    mine = await orphan_in(place / "mine")
    await eventually(lambda: not Path(f"/proc/{mine}").exists())


async def test_an_orphan_that_holds_stdout_does_not_hold_the_result(sandbox: Sandbox) -> None:
    start = time.monotonic()
    result = await sandbox.commands.run("sleep 100 & echo done")
    assert (result.stdout, result.exit_code) == ("done\n", 0)
    assert time.monotonic() - start < 2


async def test_an_orphan_can_go_on_writing(sandbox: Sandbox, place: Path) -> None:
    line = f"(sleep 0.5; echo late && touch {place}/written) & echo done"
    assert (await sandbox.commands.run(line)).stdout == "done\n"
    await eventually((place / "written").exists)


async def test_a_flood_is_cut_at_the_limit(sandbox: Sandbox) -> None:
    result = await sandbox.commands.run("yes")
    assert (result.killed_by, result.signal) == (KilledBy.OUTPUT, "SIGKILL")
    assert len(result.stdout) == 1 << 20


async def test_single_bytes_on_alternating_streams_keep_their_order(sandbox: Sandbox) -> None:
    handle = await sandbox.commands.start("for i in 1 2 3; do echo -n o; echo -n e >&2; done")
    result = await handle.wait()
    assert (result.stdout, result.stderr) == ("ooo", "eee")


async def test_late_readers_see_everything_since_the_start(sandbox: Sandbox) -> None:
    handle = await sandbox.commands.start("echo one; sleep 0.1; echo two; cat", stdin=True)
    await eventually(lambda: handle.stdout == "one\n")
    late = sandbox.commands.connect(handle.pid)
    await late.close_stdin()
    assert b"".join([data async for _, data in late]) == b"one\ntwo\n"
    assert b"".join([data async for _, data in handle]) == b"one\ntwo\n"


async def test_a_tag_finds_the_newest(sandbox: Sandbox) -> None:
    await sandbox.commands.start(["sleep", "100"], tag="server")
    second = await sandbox.commands.start(["sleep", "101"], tag="server", env={"A": "b"})
    assert sandbox.commands.connect("server").pid == second.pid
    info = sandbox.commands.list()[1]
    assert (info.cmd, info.args, info.env, info.tag) == ("sleep", ("101",), {"A": "b"}, "server")
    assert await sandbox.commands.kill("server")
    assert [p.args for p in sandbox.commands.list()] == [("100",)]


async def test_nothing_is_found_once_it_has_ended(sandbox: Sandbox) -> None:
    handle = await sandbox.commands.start(["true"])
    await handle.wait()
    assert not await handle.kill()
    assert not await sandbox.commands.kill(handle.pid)
    with pytest.raises(ProcessNotFound):
        sandbox.commands.connect(handle.pid)


async def test_a_background_command_has_its_timeout_too(sandbox: Sandbox) -> None:
    lines: list[str] = []
    handle = await sandbox.commands.run(
        "echo hi; sleep 100", background=True, timeout=0.3, on_stdout=lines.append
    )
    assert isinstance(handle, CommandHandle)
    result = await handle.wait()
    assert (result.killed_by, lines) == (KilledBy.WALL, ["hi\n"])


async def test_more_commands_than_allowed_are_refused(engine: Engine, template: Template) -> None:
    sandbox = await engine.create(template, limits=Limits(max_processes=2))
    first = await sandbox.commands.start(["sleep", "100"])
    await sandbox.commands.start(["sleep", "100"])
    with pytest.raises(ProcessLimitReached, match="2 commands"):
        await sandbox.commands.run(["true"])
    await first.kill()
    assert (await sandbox.commands.run(["true"])).ok


async def test_bad_input_is_a_typed_error(sandbox: Sandbox) -> None:
    commands = sandbox.commands
    with pytest.raises(FileNotFound, match="no-such-program"):
        await commands.run(["no-such-program"])
    with pytest.raises(FileNotFound, match="no-such-directory"):
        await commands.run(["true"], cwd="/no-such-directory")
    with pytest.raises(UnknownUser, match="nobody-at-all"):
        await commands.run(["true"], user="nobody-at-all")
    for command in ([], [""], ["a\0b"], "a\0b", [1]):
        with pytest.raises(InvalidArgument):
            await commands.run(command)  # type: ignore[arg-type]
    for env in ({"A": 1}, {"": "x"}, {"A=B": "x"}, {"A": "\0"}):
        with pytest.raises(InvalidArgument):
            await commands.run(["true"], env=env)  # type: ignore[arg-type]
    handle = await commands.start(["sleep", "100"])
    for wrong in ("SIGNOPE", 0, 99, True):
        with pytest.raises(UnknownSignal):
            await handle.kill(wrong)
    assert sandbox.is_running()
    with pytest.raises(TypeError):
        await commands.run(["true"], comand="x")  # type: ignore[call-overload]


async def test_a_cancelled_run_leaves_no_process(sandbox: Sandbox) -> None:
    for delay in (0, 0.0005, 0.001, 0.002, 0.004, 0.05):
        with anyio.move_on_after(delay):
            await sandbox.commands.run("trap '' TERM; sleep 100")
        assert sandbox.commands.list() == []
        assert await running(sandbox) == []


async def test_hundreds_at_once(sandbox: Sandbox) -> None:
    results: list[str] = []

    async def one(number: int) -> None:
        results.append((await sandbox.commands.run(["echo", str(number)])).stdout.strip())

    async with anyio.create_task_group() as tasks:
        for number in range(150):
            tasks.start_soon(one, number)
    assert sorted(map(int, results)) == list(range(150))


async def test_the_death_of_the_sandbox_ends_every_wait(sandbox: Sandbox) -> None:
    handle = await sandbox.commands.start(["sleep", "100"])
    async with anyio.create_task_group() as tasks:

        async def wait() -> None:
            with pytest.raises(SandboxDied):
                await handle.wait()

        tasks.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        await sandbox.kill(grace=0)
    with pytest.raises(SandboxDied):
        await sandbox.commands.run(["true"])


async def test_what_the_kernel_enforced_is_in_the_result(
    place: Path, template: Template, launcher: FakeLauncher
) -> None:
    async with Engine(data_dir=place / "data", launcher=launcher) as engine:
        sandbox = await engine.create(template)
        fake = launcher.sandboxes[0]
        fake.breached = KilledBy.MEMORY
        assert (await sandbox.commands.run("kill -9 $$")).killed_by is KilledBy.MEMORY
        assert (await sandbox.commands.run("kill -9 $$")).killed_by is None
        fake.breached = KilledBy.PIDS
        assert (await sandbox.commands.run("exit 0")).killed_by is None
        assert (await sandbox.commands.run("exit 1")).killed_by is KilledBy.PIDS


async def test_a_disk_that_became_full_is_named_once(
    place: Path, template: Template, launcher: FakeLauncher
) -> None:
    async with Engine(data_dir=place / "data", launcher=launcher) as engine:
        sandbox = await engine.create(template)
        fake = launcher.sandboxes[0]
        fake.usage = replace(fake.usage, disk=999_000, disk_total=1_000_000)
        assert (await sandbox.commands.run("true")).killed_by is None
        assert (await sandbox.commands.run("false")).killed_by is KilledBy.DISK
        assert (await sandbox.commands.run("false")).killed_by is None
        fake.usage = replace(fake.usage, disk=0)
        assert (await sandbox.commands.run("false")).killed_by is None


async def test_a_file_over_its_size_limit_is_the_disk_limit(
    engine: Engine, template: Template
) -> None:
    sandbox = await engine.create(template, limits=Limits(file_size="1M"))
    result = await sandbox.commands.run(["dd", "if=/dev/zero", "of=large", "bs=1M", "count=4"])
    assert result.killed_by is KilledBy.DISK
