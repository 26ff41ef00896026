"""Python cells, on the plain interpreter and on IPython alike."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import anyio
import pytest
from contexts_kit import OpenContext, Running

from atoll.engine.contexts import ContextEnded
from atoll.model import Frame, KilledBy, Result

pytestmark = pytest.mark.anyio


@pytest.fixture
async def context(open_context: OpenContext, python: list[str], tmp_path: Path) -> Running:
    return await open_context(python, cwd=tmp_path)


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("6 * 7", "42"),
        ("x = 5\nx", "5"),
        ("'text'", "'text'"),
        ("x = 5", None),
        ("None", None),
        ("1;", None),
        ("1; 2", "2"),
        ("'a;'", "'a;'"),
        ("6 * 7  # answer;", "42"),
        ("", None),
        ("# nothing", None),
        ("{'a': [1, 2]}", "{'a': [1, 2]}"),
        ("for i in range(3):\n    i", None),
    ],
)
async def test_the_last_value(context: Running, code: str, text: str | None) -> None:
    execution = await context.run(code)
    assert execution.error is None
    assert execution.text == text


async def test_variables_outlive_cells(context: Running) -> None:
    await context.run("from __future__ import annotations\ndef f(x: unknown): return x + 1\na = 1")
    assert await context.value("f(a)") == "2"
    assert await context.value("def g(x: unknown): return 5\ng(1)") == "5"
    assert await context.value("_ + 1") == "6"


async def test_executions_are_counted(context: Running) -> None:
    assert [(await context.run("1")).execution_count for _ in range(3)] == [1, 2, 3]
    silent = await context.run("7", silent=True)
    assert (silent.execution_count, silent.results) == (3, [])


async def test_output_of_every_kind_in_order(context: Running) -> None:
    code = (
        "import os, subprocess, sys\n"
        "print('one')\n"
        "subprocess.run(['echo', 'two'])\n"
        "os.write(1, b'three\\n')\n"
        "print('four', end='')\n"
        "print('oops', file=sys.stderr)"
    )
    execution = await context.run(code)
    assert "".join(execution.logs.stdout) == "one\ntwo\nthree\nfour"
    assert "".join(execution.logs.stderr) == "oops\n"


async def test_standard_input_is_empty(context: Running) -> None:
    assert await context.value("import sys; sys.stdin.read()") == "''"


async def test_an_error_has_the_cells_own_lines(context: Running) -> None:
    await context.run("def f(x):\n    return 1 / x")
    error = (await context.run("\n\nf(0)")).error
    assert error is not None
    assert (error.name, error.value) == ("ZeroDivisionError", "division by zero")
    assert error.frames == (Frame("<cell 2>", 3, "<module>"), Frame("<cell 1>", 2, "f"))
    assert "    return 1 / x" in error.traceback
    assert "/contexts/" not in error.traceback


async def test_a_syntax_error_names_its_line(context: Running) -> None:
    error = (await context.run("a = 1\nb = = 2")).error
    assert error is not None
    assert error.name == "SyntaxError"
    assert error.frames == (Frame("<cell 1>", 2, "<module>"),)
    assert error.traceback.startswith('  File "<cell 1>", line 2\n    b = = 2\n')


async def test_chained_errors(context: Running) -> None:
    code = "try:\n    {}['a']\nexcept KeyError as e:\n    raise ValueError('b') from e"
    error = (await context.run(code)).error
    assert error is not None
    assert error.name == "ValueError"
    assert "direct cause" in error.traceback


@pytest.mark.parametrize(
    ("code", "name", "value"),
    [
        ("import sys; sys.exit(3)", "SystemExit", "3"),
        ("exit()", "SystemExit", "None"),
        ("input('name? ')", "EOFError", "input() has no terminal here"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt", ""),
        ("class E(Exception):\n    def __str__(self): 1 / 0\nraise E", "E", "<E: its text"),
        ("def f(): f()\nf()", "RecursionError", "maximum recursion depth"),
        ("'\ud800'.encode()", "UnicodeEncodeError", ""),
        ("raise ValueError('x' * (40 << 20))", "ValueError", "xxx"),
    ],
)
async def test_errors_leave_the_context_usable(
    context: Running, code: str, name: str, value: str
) -> None:
    await context.run("kept = 1")
    error = (await context.run(code)).error
    assert error is not None
    assert error.name == name
    assert error.value.startswith(value)
    assert await context.value("kept") == "1"


async def test_display_of_every_mime_type(context: Running) -> None:
    code = (
        "class A:\n"
        "    def _repr_html_(self): return '<b>a</b>'\n"
        "    def _repr_png_(self): return b'\\x89PNG'\n"
        "    def _repr_latex_(self): return '$a$'\n"
        "    def _repr_json_(self): return {'a': 1}\n"
        "    def __repr__(self): return 'A'\n"
        "display(A())\n"
        "display({'application/x-own': 'own', 'text/plain': 'p'}, raw=True)\n"
        "A()"
    )
    shown = {
        "text/plain": "A",
        "text/html": "<b>a</b>",
        "image/png": "iVBORw==",
        "text/latex": "$a$",
        "application/json": {"a": 1},
    }
    execution = await context.run(code)
    assert execution.error is None
    assert execution.results == [
        Result(shown),
        Result({"application/x-own": "own", "text/plain": "p"}),
        Result(shown, is_main_result=True),
    ]


async def test_a_mimebundle_wins(context: Running) -> None:
    code = (
        "class A:\n"
        "    def _repr_mimebundle_(self, include=None, exclude=None):\n"
        "        return {'text/plain': 'p', 'application/vnd.x+json': [1, float('nan')]}\n"
        "A()"
    )
    (result,) = (await context.run(code)).results
    assert result.data == {"text/plain": "p", "application/vnd.x+json": [1, None]}


async def test_a_result_that_does_not_fit_is_an_error(context: Running) -> None:
    execution = await context.run("display({'text/plain': 'x' * (33 << 20)}, raw=True)\n5")
    assert execution.error is not None
    assert execution.error.name == "ResultTooLarge"
    assert execution.text == "5"


async def test_top_level_await(context: Running) -> None:
    code = "import asyncio\nx = await asyncio.sleep(0, 4)\nx + await asyncio.sleep(0, 1)"
    assert await context.value(code) == "5"
    assert await context.value("import asyncio\nasyncio.run(asyncio.sleep(0, 6))") == "6"


async def test_tasks_run_between_cells_and_in_later_ones(context: Running) -> None:
    code = (
        "import asyncio\nseen = []\n"
        "async def tick():\n    while True:\n        seen.append(1)\n"
        "        await asyncio.sleep(0.001)\n"
        "task = asyncio.create_task(tick())"
    )
    assert (await context.run(code)).error is None
    await anyio.sleep(0.1)
    assert await context.value("len(seen) > 5") == "True"
    assert await context.value("before = len(seen)\nawait asyncio.sleep(0.1)\nlen(seen) > before")


@pytest.mark.parametrize(
    "code",
    [
        "import time\ntime.sleep(60)",
        "while True: pass",
        "import asyncio\nawait asyncio.sleep(60)",
        "import asyncio\nasyncio.run(asyncio.sleep(60))",
        "import subprocess\nsubprocess.run(['sleep', '60'])",
        "import threading\nthreading.Event().wait()",
        "try:\n    while True: pass\nfinally:\n    cleaned = True",
    ],
)
async def test_a_timeout_interrupts_and_the_context_goes_on(context: Running, code: str) -> None:
    await context.run("kept = 1")
    execution = await context.run(code, timeout=0.2)
    assert execution.killed_by is KilledBy.WALL
    assert execution.error is not None
    assert execution.error.name == "TimedOut"
    assert execution.error.frames[0].filename == "<cell 2>"
    assert not context.client.must_kill
    assert await context.value("kept") == "1"


async def test_a_cell_that_ignores_the_interrupt_must_be_killed(
    open_context: OpenContext, python: list[str]
) -> None:
    context = await open_context(python, grace=0.3)
    code = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass"
    execution = await context.run(code, timeout=0.2)
    assert execution.killed_by is KilledBy.WALL
    assert context.client.must_kill
    assert not context.client.alive


async def test_an_interrupt_between_cells_does_nothing(context: Running) -> None:
    await context.run("x = 1")
    for _ in range(2):
        os.killpg(context.process.pid, signal.SIGINT)
    assert await context.value("x") == "1"


async def test_interrupts_at_any_moment_leave_the_context_usable(context: Running) -> None:
    await context.run("kept = 1")
    for step in range(40):
        await context.run("display(1)", timeout=step * 0.00005)
        assert await context.value("kept") == "1"


async def test_interrupt_of_the_running_cell(context: Running) -> None:
    async with anyio.create_task_group() as group:

        async def stop() -> None:
            await anyio.sleep(0.2)
            await context.client.interrupt()

        group.start_soon(stop)
        execution = await context.run("import time\ntime.sleep(60)")
    assert execution.error is not None
    assert execution.error.name == "KeyboardInterrupt"
    assert execution.error.frames == (Frame("<cell 1>", 2, "<module>"),)
    assert execution.killed_by is None


async def test_environment_and_directory_of_one_run(context: Running, tmp_path: Path) -> None:
    code = "import os\nos.environ.get('A'), os.getcwd()"
    inside = await context.run(code, env={"A": "b"}, cwd="/usr")
    assert inside.text == "('b', '/usr')"
    assert await context.value(code) == f"(None, {str(tmp_path)!r})"
    missing = await context.run("1", cwd="/not/there")
    assert missing.error is not None
    assert missing.error.name == "FileNotFoundError"


async def test_modules_beside_the_cell_are_found(context: Running, tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("x = 7")
    assert await context.value("import beside\nbeside.x") == "7"


async def test_a_forked_child_does_not_answer(context: Running) -> None:
    code = (
        "import os\nif os.fork() == 0:\n    print('child')\n    display('child')\n"
        "else:\n    os.wait()\n    print('parent')\n5"
    )
    execution = await context.run(code)
    assert "".join(execution.logs.stdout) == "child\n'child'\nparent\n"
    assert execution.results == [Result({"text/plain": "5"}, is_main_result=True)]
    assert await context.value("1") == "1"


async def test_a_thread_may_show_after_its_cell(context: Running) -> None:
    code = (
        "import threading, time\n"
        "def late():\n    for _ in range(200):\n        display('x')\n"
        "        time.sleep(0.0005)\n"
        "thread = threading.Thread(target=late)\nthread.start()"
    )
    await context.run(code)
    for number in range(50):
        assert await context.value(str(number)) == str(number)
    assert (await context.run("thread.join()")).error is None


async def test_the_end_of_the_process_is_reported_with_what_came_before(context: Running) -> None:
    with pytest.raises(ContextEnded) as raised:
        await context.run("import os\nprint('last', flush=True)\nos._exit(1)")
    assert raised.value.execution.logs.stdout == ["last\n"]


async def test_only_the_standard_descriptors_are_inherited(context: Running) -> None:
    code = "import subprocess\nsubprocess.run('ls /proc/self/fd', shell=True, close_fds=False)"
    # The fourth is that of ls itself.
    assert await context.said(code + ";") == "0\n1\n2\n3\n"


async def test_pickles_and_sources_of_what_a_cell_defines(context: Running) -> None:
    await context.run("class A:\n    pass\n\n\ndef f():\n    return 'source'")
    assert (
        await context.value("import pickle\ntype(pickle.loads(pickle.dumps(A()))) is A") == "True"
    )
    code = "import inspect\nprint(inspect.getsource(f), end='')"
    assert await context.said(code) == "def f():\n    return 'source'\n"
