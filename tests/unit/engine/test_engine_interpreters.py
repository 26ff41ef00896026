"""Contexts of a sandbox, over Bash, whose runner needs nothing but the guest."""

from __future__ import annotations

import functools
from pathlib import Path

import anyio
import pytest

from atoll.engine import Engine, Sandbox
from atoll.launch.fake import FakeLauncher
from atoll.model import (
    ContextDied,
    ContextNotFound,
    InvalidArgument,
    KilledBy,
    SandboxDied,
    Template,
    UnknownLanguage,
    UnknownUser,
)
from atoll.testing.waiting import eventually

pytestmark = pytest.mark.anyio


async def said(sandbox: Sandbox, code: str, **where: object) -> str:
    execution = await sandbox.run_code(code, **where)  # type: ignore[arg-type]
    assert execution.error is None, execution.error
    return "".join(execution.logs.stdout)


async def test_the_default_context_keeps_its_state(sandbox: Sandbox) -> None:
    await sandbox.run_code("x=5", language="bash")
    assert await said(sandbox, "echo $x", language="sh") == "5\n"
    (context,) = await sandbox.list_contexts()
    assert context.language == "bash"


async def test_contexts_are_apart(sandbox: Sandbox, place: Path) -> None:
    first = await sandbox.create_context("bash", cwd=str(place), env={"A": "first"})
    second = await sandbox.create_context("bash", env={"A": "second"})
    await said(sandbox, "x=1", context=first)
    assert await said(sandbox, "echo $A$x; pwd", context=first.id) == f"first1\n{place}\n"
    assert await said(sandbox, "echo $A$x", context=second) == "second\n"
    assert await sandbox.list_contexts() == [first, second]


async def test_the_sandboxes_environment_reaches_contexts(
    engine: Engine, template: Template
) -> None:
    sandbox = await engine.create(template, env={"A": "b"})
    assert await said(sandbox, "echo $A", language="bash") == "b\n"


async def test_restart_empties_and_remove_ends(sandbox: Sandbox) -> None:
    context = await sandbox.create_context("bash")
    await said(sandbox, "x=1", context=context)
    assert await sandbox.restart_context(context) == context
    assert await said(sandbox, "echo [$x]", context=context) == "[]\n"
    await sandbox.remove_context(context)
    assert await sandbox.list_contexts() == []
    with pytest.raises(ContextNotFound):
        await sandbox.run_code("true", context=context)


async def test_what_left_the_session_of_a_context_ends_with_it(
    sandbox: Sandbox, place: Path
) -> None:
    contexts = [await sandbox.create_context("bash") for _ in range(2)]
    orphans = []
    for name, context in zip(("removed", "restarted"), contexts, strict=True):
        orphan = f"(setsid sh -c 'echo $$ > {name}; exec sleep 1000' &); until [ -s {name} ]"
        await said(sandbox, f"cd {place}; {orphan}; do :; done", context=context)
        orphans.append(Path("/proc") / (place / name).read_text().strip())
    await sandbox.remove_context(contexts[0])
    await eventually(lambda: not orphans[0].exists())
    assert orphans[1].exists()
    await sandbox.restart_context(contexts[1])
    await eventually(lambda: not orphans[1].exists())


async def test_an_interrupt_ends_the_cell_and_not_the_context(sandbox: Sandbox) -> None:
    context = await sandbox.create_context("bash")
    await said(sandbox, "x=1", context=context)
    async with anyio.create_task_group() as tasks:

        async def interrupt() -> None:
            await anyio.sleep(0.3)
            await sandbox.interrupt_context(context)

        tasks.start_soon(interrupt)
        with anyio.fail_after(20):
            await sandbox.run_code("sleep 100", context=context)
    assert await said(sandbox, "echo $x", context=context) == "1\n"


async def test_a_context_that_dies_is_named(sandbox: Sandbox) -> None:
    context = await sandbox.create_context("bash")
    with pytest.raises(ContextDied):
        await sandbox.run_code("kill -9 $PPID", context=context)
    with pytest.raises(ContextDied):
        await sandbox.run_code("true", context=context)
    await sandbox.restart_context(context)
    assert await said(sandbox, "echo new", context=context) == "new\n"


async def test_a_default_context_that_died_is_replaced(sandbox: Sandbox) -> None:
    with pytest.raises(ContextDied):
        await sandbox.run_code("kill -9 $PPID", language="bash")
    assert await said(sandbox, "echo new", language="bash") == "new\n"
    assert len(await sandbox.list_contexts()) == 1


async def test_a_cell_that_a_limit_ends_is_a_result(
    place: Path, template: Template, launcher: FakeLauncher
) -> None:
    async with Engine(data_dir=place / "data", launcher=launcher) as engine:
        sandbox = await engine.create(template)
        await sandbox.run_code("true", language="bash")
        launcher.sandboxes[0].breached = KilledBy.MEMORY
        execution = await sandbox.run_code("echo before; kill -9 $PPID", language="bash")
        assert execution.killed_by is KilledBy.MEMORY
        assert execution.logs.stdout == ["before\n"]
        assert execution.error is not None
        launcher.sandboxes[0].breached = KilledBy.PIDS
        execution = await sandbox.run_code("false", language="bash")
        assert execution.killed_by is KilledBy.PIDS


async def test_the_end_of_the_sandbox_ends_a_cell(sandbox: Sandbox) -> None:
    async with anyio.create_task_group() as tasks:

        async def run() -> None:
            with pytest.raises((SandboxDied, ContextDied)):
                await sandbox.run_code("sleep 100", language="bash")

        tasks.start_soon(run)
        await anyio.sleep(0.3)
        with anyio.fail_after(10):
            await sandbox.kill(grace=0)


async def test_two_contexts_run_at_once(sandbox: Sandbox) -> None:
    busy, free = [await sandbox.create_context("bash") for _ in range(2)]
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(functools.partial(said, sandbox, "sleep 100", context=busy))
            await anyio.sleep(0.1)
            assert await said(sandbox, "echo now", context=free) == "now\n"
            tasks.cancel_scope.cancel()
    assert await said(sandbox, "echo free again", context=busy) == "free again\n"


async def test_bad_input_is_a_typed_error(engine: Engine, sandbox: Sandbox) -> None:
    with pytest.raises(UnknownLanguage, match="cobol"):
        await sandbox.run_code("x", language="cobol")
    with pytest.raises(UnknownLanguage, match="no interpreter for javascript"):
        await sandbox.run_code("x", language="javascript")
    with pytest.raises(UnknownUser):
        await sandbox.create_context("bash", user="nobody-at-all")
    assert await sandbox.list_contexts() == []
    context = await sandbox.create_context("bash")
    with pytest.raises(InvalidArgument, match="speaks bash"):
        await sandbox.run_code("x", language="python", context=context)
    with pytest.raises(ContextNotFound):
        await sandbox.restart_context("nope")
