"""Commands and terminals."""

from __future__ import annotations

import signal

import anyio

from atoll.model import FileNotFound, InvalidArgument, ProcessNotFound, UnknownSignal, UnknownUser
from atoll.testing.contract.case import Case, Subject, raises

MIB = 1 << 20


async def output_and_exit_code(subject: Subject) -> None:
    async with subject.sandbox() as sandbox:
        result = await sandbox.commands.run("echo out; echo err >&2; exit 3")
        assert (result.stdout, result.stderr, result.exit_code) == ("out\n", "err\n", 3)
        assert not result.ok and result.killed_by is None and result.signal is None


async def input_reaches_a_command_and_ends(subject: Subject) -> None:
    async with subject.sandbox() as sandbox:
        assert (await sandbox.commands.run("cat", stdin=b"hello")).stdout == "hello"
        handle = await sandbox.commands.start("cat", stdin=True)
        await handle.send_stdin("one ")
        await handle.send_stdin(b"two")
        await handle.close_stdin()
        assert (await handle.wait()).stdout == "one two"


async def a_signal_that_ends_a_command_is_named(subject: Subject) -> None:
    async with subject.sandbox() as sandbox:
        handle = await sandbox.commands.start(["sleep", "60"])
        assert await handle.kill("SIGTERM")
        result = await handle.wait()
        assert result.exit_code == 128 + signal.SIGTERM and result.signal == "SIGTERM"
        assert not await handle.kill()


async def arguments_reach_a_program_as_they_are(subject: Subject) -> None:
    arguments = ["", " ", "a b", "$HOME", "*", "'\"", "\n", "ü", "-" * 100_000]
    async with subject.sandbox() as sandbox:
        code = "import sys; sys.stdout.write(repr(sys.argv[1:]))"
        result = await sandbox.commands.run([subject.python, "-I", "-c", code, *arguments])
        assert result.stdout == repr(arguments)


async def environment_and_directory_are_those_asked_for(subject: Subject) -> None:
    async with subject.sandbox(env={"A": "1", "B": "1"}) as sandbox:
        result = await sandbox.commands.run("echo $A $B; pwd", env={"B": "2"}, cwd="/tmp")
        assert result.stdout == "1 2\n/tmp\n"


async def what_cannot_start_is_a_typed_error(subject: Subject) -> None:
    async with subject.sandbox() as sandbox:
        run = sandbox.commands.run
        await raises(FileNotFound, run(["/no/such/program"]))
        await raises(FileNotFound, run(["true"], cwd="/no/such/directory"))
        await raises(UnknownUser, run(["true"], user="nobody-of-this-name"))
        await raises(InvalidArgument, run([]))
        await raises(InvalidArgument, run(["a\0b"]))
        handle = await sandbox.commands.start(["sleep", "60"])
        await raises(UnknownSignal, handle.kill("SIGNOTHING"))
        await raises(UnknownSignal, handle.kill(4096))


async def background_commands_are_listed_found_and_killed(subject: Subject) -> None:
    async with subject.sandbox() as sandbox:
        handle = await sandbox.commands.start("echo early; sleep 60", tag="sleeper")
        assert [info.tag for info in sandbox.commands.list()] == ["sleeper"]
        with anyio.fail_after(10):
            async for _ in handle:
                break
        late = sandbox.commands.connect("sleeper")
        assert late.stdout == "early\n", "a later reader sees what came before"
        assert await sandbox.commands.kill("sleeper")
        await late.wait()
        assert sandbox.commands.list() == []
        assert not await sandbox.commands.kill("sleeper")
        await raises(ProcessNotFound, sandbox.commands.send_stdin("sleeper", "x"))


async def large_output_arrives_whole_and_in_order(subject: Subject) -> None:
    code = "import sys\nfor n in range(400000): sys.stdout.write(f'{n:020d}\\n')"
    async with subject.sandbox() as sandbox:
        result = await sandbox.commands.run([subject.python, "-I", "-c", code])
        lines = result.stdout.splitlines()
        assert len(lines) == 400_000 and lines[-1] == f"{399_999:020d}"
        assert all(int(line) == number for number, line in enumerate(lines))


async def output_that_is_no_text_is_no_error(subject: Subject) -> None:
    async with subject.sandbox() as sandbox:
        result = await sandbox.commands.run("printf 'a\\377\\376b\\033]0;x\\007'")
        assert result.ok and result.stdout[0] == "a" and "b" in result.stdout


async def many_commands_run_at_once(subject: Subject) -> None:
    answers: list[str] = []

    async def one(number: int) -> None:
        result = await sandbox.commands.run(f"echo {number}")
        answers.append(result.stdout.strip())

    async with subject.sandbox() as sandbox:
        async with anyio.create_task_group() as tasks:
            for number in range(40):
                tasks.start_soon(one, number)
        assert sorted(answers, key=int) == [str(number) for number in range(40)]


async def a_cancelled_command_is_ended(subject: Subject) -> None:
    async with subject.sandbox() as sandbox:
        with anyio.move_on_after(0.2):
            await sandbox.commands.run(["sleep", "60"])
        assert sandbox.commands.list() == []


async def a_timeout_ends_what_ignores_it(subject: Subject) -> None:
    script = "trap '' TERM INT HUP; while :; do sleep 1; done"
    async with subject.sandbox() as sandbox:
        with anyio.fail_after(15):
            result = await sandbox.commands.run(script, timeout=0.5)
        assert result.killed_by == "wall" and not result.ok
        assert (await sandbox.commands.run("echo on")).stdout == "on\n"


async def a_timeout_reaches_what_left_its_session_and_nothing_else(subject: Subject) -> None:
    orphan = "(setsid sh -c 'echo $$ > {0}; exec sleep 60' &); until [ -s {0} ]; do :; done"
    alive = "kill -0 $(cat {0})"
    async with subject.sandbox() as sandbox:
        mine, theirs = f"{subject.home}/mine", f"{subject.home}/theirs"
        assert (await sandbox.commands.run(orphan.format(theirs))).ok
        with anyio.fail_after(15):
            result = await sandbox.commands.run(f"{orphan.format(mine)}; sleep 60", timeout=1)
        assert result.killed_by == "wall", result
        assert (await sandbox.commands.run(alive.format(theirs))).ok
        with anyio.fail_after(10):
            while (await sandbox.commands.run(alive.format(mine))).ok:
                continue


async def an_orphan_that_holds_the_output_open_is_not_waited_for(subject: Subject) -> None:
    async with subject.sandbox() as sandbox:
        with anyio.fail_after(15):
            result = await sandbox.commands.run("(setsid sleep 20 &) ; echo done", timeout=2)
        assert result.stdout == "done\n"


async def a_terminal_has_a_size_and_echoes(subject: Subject) -> None:
    async with subject.sandbox() as sandbox:
        terminal = await sandbox.pty.create(cols=91, rows=17, cmd=["/bin/sh"])
        await terminal.send_input("stty size; tty\n")
        seen = b""
        with anyio.fail_after(15):
            async for piece in terminal:
                seen += piece
                if b"/dev/pts/" in seen:
                    break
        assert b"17 91" in seen and b"stty size" in seen
        await terminal.resize(cols=50, rows=10)
        await terminal.send_input("stty size\n")
        with anyio.fail_after(15):
            async for piece in terminal:
                seen += piece
                if b"10 50" in seen:
                    break
        await terminal.kill()


CASES = tuple(
    Case(run.__name__, run)
    for run in (
        output_and_exit_code,
        input_reaches_a_command_and_ends,
        a_signal_that_ends_a_command_is_named,
        arguments_reach_a_program_as_they_are,
        environment_and_directory_are_those_asked_for,
        what_cannot_start_is_a_typed_error,
        background_commands_are_listed_found_and_killed,
        large_output_arrives_whole_and_in_order,
        output_that_is_no_text_is_no_error,
        many_commands_run_at_once,
        a_cancelled_command_is_ended,
        a_timeout_ends_what_ignores_it,
        a_timeout_reaches_what_left_its_session_and_nothing_else,
        an_orphan_that_holds_the_output_open_is_not_waited_for,
        a_terminal_has_a_size_and_echoes,
    )
)
