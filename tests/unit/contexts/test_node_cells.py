"""JavaScript and TypeScript cells."""

from __future__ import annotations

import base64
import os
import signal
from pathlib import Path

import anyio
import pytest
from contexts_kit import OpenContext, Running, wheel_node

from atoll.model import Frame, KilledBy, Result

pytestmark = pytest.mark.anyio


@pytest.fixture
async def context(open_context: OpenContext, node: list[str], tmp_path: Path) -> Running:
    return await open_context(node, cwd=tmp_path)


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("1 + 1", "2"),
        ("'text'", "'text'"),
        ("const a = 1", None),
        ("undefined", None),
        ("null", "null"),
        ("{a: 1, b: [2]}", "{ a: 1, b: [ 2 ] }"),
        ("{ let b = 4; b }", "4"),
        ("10n", "10n"),
        ("NaN", "NaN"),
        ("Symbol('x')", "Symbol(x)"),
        ("new Map([[1, 2]])", "Map(1) { 1 => 2 }"),
        ("// nothing", None),
        ("", None),
        ("await new Promise(done => setTimeout(() => done(7), 5))", "7"),
        ("Promise.resolve(1)", "Promise { 1 }"),
        ("export const kept = 3; kept", "3"),
        ("`\nimport x from 'y';`.length", "19"),
    ],
)
async def test_the_last_value(context: Running, code: str, text: str | None) -> None:
    execution = await context.run(code)
    assert execution.error is None
    assert execution.text == text


async def test_declarations_outlive_cells_and_may_be_made_again(context: Running) -> None:
    await context.run(
        "const a = 1; let b = 2; var c = 3; function f() { return a } class K { n = 4 }"
    )
    assert await context.value("[a, b, c, f(), new K().n].join()") == "'1,2,3,1,4'"
    assert await context.value("const a = 5; let b = 6; class K { n = 7 }; [a, b, new K().n]") == (
        "[ 5, 6, 7 ]"
    )


async def test_modules(context: Running, tmp_path: Path) -> None:
    (tmp_path / "beside.mjs").write_text("export default 'd'; export const named = 'n';")
    (tmp_path / "old.cjs").write_text("module.exports = {old: 'o'}")
    code = (
        "import whole, {\n  named as other\n} from './beside.mjs';\n"
        "import * as os from 'node:os'; import 'node:util';\n"
        "const {old} = require('./old.cjs');\n"
        "const later = await import('./beside.mjs');\n"
        "[whole, other, typeof os.cpus, old, later.named].join()"
    )
    assert await context.value(code) == "'d,n,function,o,n'"
    # No warning about experimental parts of Node.js.
    assert (await context.run("import fs from 'fs'; typeof fs")).logs.stderr == []


async def test_json_of_plain_values(context: Running) -> None:
    code = "const loop = {}; loop.it = loop; display([1, {a: 2}]); display(loop); new Date(0)"
    listed, looped, date = (await context.run(code)).results
    assert listed.json == [1, {"a": 2}]
    assert looped.formats() == date.formats() == ["text/plain"]


async def test_display_of_bundles(context: Running) -> None:
    code = (
        "display({'text/html': '<b>', 'image/png': Buffer.from('png')});\n"
        "await display({[Symbol.for('Jupyter.display')]: async () => ({'text/markdown': '#'})});"
    )
    first, second = (await context.run(code)).results
    assert first == Result({"text/html": "<b>", "image/png": base64.b64encode(b"png").decode()})
    assert second.data == {"text/markdown": "#"}


async def test_streams(context: Running) -> None:
    code = (
        "console.log('one'); require('child_process').execSync('echo two', {stdio: 'inherit'});"
        "process.stdout.write('three'); console.error('oops'); undefined"
    )
    execution = await context.run(code)
    assert "".join(execution.logs.stdout) == "one\ntwo\nthree"
    assert "".join(execution.logs.stderr) == "oops\n"


async def test_timers_run_between_cells(context: Running) -> None:
    await context.run("let ticks = 0; const timer = setInterval(() => { ticks += 1 }, 1)")
    await anyio.sleep(0.1)
    assert await context.value("clearInterval(timer); ticks > 3") == "true"


async def test_an_error_has_the_cells_own_lines(context: Running) -> None:
    await context.run("function f() {\n  throw new TypeError('bad')\n}")
    error = (await context.run("\nf()")).error
    assert error is not None
    assert (error.name, error.value) == ("TypeError", "bad")
    assert error.frames == (Frame("cell-2.js", 2, "<anonymous>"), Frame("cell-1.js", 2, "f"))
    assert error.traceback == ("TypeError: bad\n    at f (cell-1.js:2:9)\n    at cell-2.js:2:1")


@pytest.mark.parametrize(
    ("code", "name", "value", "line"),
    [
        ("1;\nlet = ;", "SyntaxError", "Unexpected token ';'", 2),
        ("throw 'text'", "Uncaught", "'text'", None),
        ("await Promise.reject(new RangeError('r'))", "RangeError", "r", 1),
        ("process.exit(3)", "ProcessExit", "3", None),
        ("import 'not-there-at-all'", "Error", "Cannot find package", None),
        ("throw new Error('x'.repeat(40 << 20))", "Error", "xxx", None),
    ],
)
async def test_errors_leave_the_context_usable(
    context: Running, code: str, name: str, value: str, line: int | None
) -> None:
    await context.run("const kept = 1")
    error = (await context.run(code)).error
    assert error is not None
    assert error.name == name
    assert error.value.startswith(value)
    if line is not None:
        assert error.frames[0].line == line
    assert await context.value("kept") == "1"


async def test_errors_that_nobody_waits_for_are_printed(context: Running) -> None:
    code = "setTimeout(() => { throw new Error('late') }); Promise.reject(new Error('lost')); 0"
    first = await context.run(code)
    second = await context.run("await new Promise(done => setTimeout(done, 50))")
    text = "".join(first.logs.stderr + second.logs.stderr)
    assert "Uncaught Error: late" in text
    assert "Uncaught Error: lost" in text


@pytest.mark.parametrize(
    "code",
    [
        "for (;;) {}",
        "await new Promise(() => {})",
        "const never = {[Symbol.asyncIterator]: () => ({next: () => new Promise(() => {})})};"
        "for await (const x of never);",
        "require('child_process').execSync('sleep 60')",
    ],
)
async def test_a_timeout_interrupts_and_the_context_goes_on(context: Running, code: str) -> None:
    await context.run("const kept = 1")
    execution = await context.run(code, timeout=0.3)
    assert execution.killed_by is KilledBy.WALL
    assert await context.value("kept") == "1"


@pytest.mark.parametrize(
    ("code", "step"),
    [
        ("7", 0.00005),
        ("require('child_process').execSync('sleep 60')", 0.0005),
        ("await new Promise(() => {})", 0.0005),
        ("{ const end = Date.now() + 5; while (Date.now() < end); throw new Error('x') }", 0.0003),
    ],
)
async def test_interrupts_at_any_moment_leave_the_context_usable(
    context: Running, code: str, step: float
) -> None:
    await context.run("const kept = 1")
    for number in range(25):
        await context.run(code, timeout=number * step)
        assert await context.value("kept") == "1"
        assert await context.value("typeof require('child_process').execSync") == "'function'"


@pytest.mark.parametrize("name", ["http2", "child_process", "readline", "zlib"])
async def test_an_interrupt_leaves_no_part_of_node_half_loaded(
    open_context: OpenContext, node: list[str], name: str
) -> None:
    for number in range(8):
        context = await open_context(node)
        await context.run(f"require('{name}')", timeout=0.0003 + number * 0.0005)
        assert await context.value(f"Object.keys(require('{name}')).length > 5") == "true"


async def test_output_goes_on_after_an_interrupt_in_the_middle_of_it(context: Running) -> None:
    for _ in range(5):
        execution = await context.run("for (;;) console.log('again')", timeout=0.05)
        assert execution.killed_by is not None
        assert "".join((await context.run("console.log('on')")).logs.stdout).endswith("on\n")


async def test_an_interrupt_between_cells_does_nothing(context: Running) -> None:
    await context.run("const kept = 1")
    for _ in range(2):
        os.killpg(context.process.pid, signal.SIGINT)
    assert await context.value("kept") == "1"


async def test_a_cells_own_listener_does_not_keep_the_interrupt(context: Running) -> None:
    await context.run("process.on('SIGINT', () => {}); process.once('SIGTERM', () => {}); 0")
    execution = await context.run("for (;;) {}", timeout=0.1)
    assert execution.killed_by is KilledBy.WALL
    await context.run("process.removeAllListeners('SIGINT'); 0")
    execution = await context.run("await new Promise(() => {})", timeout=0.1)
    assert execution.killed_by is KilledBy.WALL
    assert await context.value("'on'") == "'on'"


async def test_streams_call_back_when_they_have_written(context: Running) -> None:
    code = (
        "const done = []; process.stdout.write('a', () => done.push(1));"
        "process.stderr.write(Buffer.from('b')); process.stdout.write('63', 'hex');"
        "await new Promise(end => process.stdout.end('d', end));"
        "await require('stream/promises').pipeline(['e', 'f'], process.stdout);"
        "require('stream').Readable.from(['g']).pipe(process.stdout);"
        "await new Promise(end => setImmediate(end)); done.length"
    )
    execution = await context.run(code)
    assert execution.error is None, execution.error
    assert (execution.text, "".join(execution.logs.stdout)) == ("1", "acdefg")
    assert await context.value("process.stdout.write('h')") == "true"


async def test_a_promise_that_nobody_can_settle_is_not_collected(context: Running) -> None:
    await context.run("await new Promise(() => {})", timeout=0.1)
    # Garbage enough for a full collection, which would abort Node.js if it took the promise.
    await context.run("for (let i = 0; i < 50; i++) 'y'.repeat(8 << 20).split('y', 9); 0")
    assert await context.value("'alive'") == "'alive'"


async def test_environment_and_directory_of_one_run(context: Running, tmp_path: Path) -> None:
    code = "[process.env.A, process.cwd()].join()"
    inside = await context.run(code, env={"A": "b"}, cwd="/usr")
    assert inside.text == "'b,/usr'"
    assert await context.value(code) == f"',{tmp_path}'"
    missing = await context.run("1", cwd="/not/there")
    assert missing.error is not None
    assert missing.error.value.startswith("ENOENT")


async def test_a_result_that_does_not_fit_is_an_error(context: Running) -> None:
    execution = await context.run("display({'text/plain': 'x'.repeat(33 << 20)}); 5")
    assert execution.error is not None
    assert execution.error.name == "ResultTooLarge"
    assert execution.text == "5"


async def test_only_the_standard_descriptors_are_inherited(context: Running) -> None:
    code = "require('child_process').execSync('ls /proc/self/fd').toString()"
    assert await context.value(code) == "'0\\n1\\n2\\n3\\n'"


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("const n: number = 5; interface A { x: string }; n", "5"),
        ("enum E { A, B }; E.B", "1"),
        ("function id<T>(x: T): T { return x }\nid<string>('s')", "'s'"),
        ("import type { Stats } from 'fs'; import * as fs from 'fs'; typeof fs", "'object'"),
        ("import path from 'path';", None),
    ],
)
async def test_typescript(
    open_context: OpenContext,
    guest_root: Path,
    scientific: Path,
    code: str,
    text: str | None,
) -> None:
    runner = guest_root / "atoll/guest/contexts/node_runner.mjs"
    context = await open_context([str(wheel_node(scientific)), str(runner), "typescript"])
    execution = await context.run(code)
    assert execution.error is None
    assert execution.text == text


async def test_typescript_keeps_lines_and_later_uses_of_imports(
    open_context: OpenContext, guest_root: Path, scientific: Path
) -> None:
    runner = guest_root / "atoll/guest/contexts/node_runner.mjs"
    context = await open_context([str(wheel_node(scientific)), str(runner), "typescript"])
    await context.run("import path from 'path'; interface A {\n  x: string\n}")
    assert await context.value("path.sep as string") == "'/'"
    error = (await context.run("let u: string | undefined;\nthrow new Error('second')")).error
    assert error is not None
    assert error.frames == (Frame("cell-3.ts", 2, "<anonymous>"),)


async def test_typescript_without_a_compiler_says_what_to_install(
    open_context: OpenContext, node: list[str], tmp_path: Path
) -> None:
    context = await open_context([*node, "typescript"], cwd=tmp_path)
    execution = await context.run("const n: number = 1; n")
    if execution.error is None:
        assert execution.text == "1"
    else:
        assert execution.error.name == "TypeScriptUnavailable"
        assert "npm package" in execution.error.value
