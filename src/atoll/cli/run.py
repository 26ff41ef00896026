"""`atoll run`: one program, in one fresh sandbox, as if it ran here."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated

import typer

from atoll.cli import settings as said
from atoll.cli import terminal
from atoll.cli.fresh import DEFAULT_TEMPLATE, Wanted, fresh_sandbox
from atoll.cli.program import (
    HOME,
    Program,
    from_code,
    from_file,
    from_stdin,
    read_host_file,
)
from atoll.cli.settings import Settings
from atoll.cli.streams import LocalProcess, carry, killed_line
from atoll.model import (
    CommandResult,
    FileAccessDenied,
    FileNotFound,
    InvalidArgument,
    KilledBy,
    Template,
)

if TYPE_CHECKING:
    from atoll import Sandbox


@dataclass(frozen=True)
class Job:
    """One run: the program, what goes with it, and how it is started."""

    program: Program
    arguments: tuple[str, ...] = ()
    files: tuple[tuple[Path, str], ...] = ()
    user: str | None = None
    cwd: str | None = None
    timeout: float | None = None
    stdin: bool = True
    as_json: bool = False
    wanted: Wanted = field(default_factory=Wanted)


def run(
    context: typer.Context,
    file: Annotated[
        str | None, typer.Argument(metavar="FILE", help="Program to run; '-' reads it from stdin.")
    ] = None,
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="ARGS", help="Arguments of the program, after --.")
    ] = None,
    code: Annotated[
        str | None, typer.Option("-c", metavar="CODE", help="Run this text instead of a file.")
    ] = None,
    language: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="python, javascript, typescript or bash. Default: by suffix or #! line.",
        ),
    ] = None,
    files: Annotated[
        list[str] | None,
        typer.Option("--file", metavar="F[:NAME]", help="Copy this file in. May be repeated."),
    ] = None,
    mounts: said.Mounts = None,
    env: said.Variables = None,
    template: Annotated[
        str, typer.Option(metavar="NAME", help="Template to run in.")
    ] = DEFAULT_TEMPLATE,
    network: Annotated[
        bool,
        typer.Option("--network", help="Let it reach the internet. Default: its own loopback."),
    ] = False,
    user: said.User = None,
    cwd: said.Cwd = None,
    timeout: Annotated[
        str | None, typer.Option(metavar="SECONDS", help="End the program then; exit code 124.")
    ] = None,
    memory: said.Memory = None,
    cpu: said.Cpu = None,
    pids: said.Pids = None,
    open_files: said.OpenFiles = None,
    file_size: said.FileSize = None,
    disk: said.Disk = None,
    wall: said.Wall = None,
    cpu_time: said.CpuTime = None,
    output: said.Output = None,
    as_json: said.ResultAsJson = False,
) -> None:
    """Run a program in a fresh sandbox.

    Standard input, output, signals and the exit code pass through unchanged. Of the host's files
    only FILE, every --file and every --mount are visible inside.

    Exit code: the program's own; 124 after --timeout; 125 if Atoll could not run it; 126 or 127 if
    it could not be started; 128 + N if signal N ended it.
    """
    limits = {
        "memory": memory,
        "cpu": cpu,
        "pids": pids,
        "open_files": open_files,
        "file_size": file_size,
        "disk": disk,
        "wall": wall,
        "cpu_time": cpu_time,
        "output": output,
    }

    async def work() -> int:
        program, rest = _program(file, arguments or [], code, language)
        job = Job(
            program=program,
            arguments=rest,
            files=tuple(_extra(text) for text in files or ()),
            user=user,
            cwd=cwd,
            timeout=said.seconds_from("--timeout", timeout),
            stdin=file != "-",
            as_json=as_json,
            wanted=Wanted(
                template=template,
                limits=said.limits_from(limits),
                env=said.environment_from(env or ()),
                mounts=said.mounts_from(mounts or ()),
                network=network,
            ),
        )
        return await run_job(said.settings_of(context), job)

    raise typer.Exit(terminal.finish(work, as_json=as_json, failure=terminal.RUN_FAILURE))


def _program(
    file: str | None, arguments: list[str], code: str | None, language: str | None
) -> tuple[Program, tuple[str, ...]]:
    if code is not None:
        return from_code(code, language), tuple([file, *arguments] if file else arguments)
    if file is None:
        raise InvalidArgument(
            "nothing to run", hint="name a FILE, say -c CODE, or '-' for standard input"
        )
    if file == "-":
        return from_stdin(language), tuple(arguments)
    return from_file(Path(file), language), tuple(arguments)


def _extra(text: str) -> tuple[Path, str]:
    if Path(text).exists() or ":" not in text:
        return Path(text), Path(text).name
    host, _, name = text.rpartition(":")
    return Path(host), name


async def run_job(settings: Settings, job: Job) -> int:
    """Run it and return the exit code for the shell."""
    contents = [(read_host_file(path), name) for path, name in job.files]
    async with fresh_sandbox(settings, job.wanted) as (sandbox, template):
        for content, name in contents:
            await sandbox.files.write(_inside(name), content, user=job.user)
        await sandbox.files.write(job.program.path, job.program.content, user=job.user)
        return await _execute(sandbox, template, job)


def _inside(name: str) -> str:
    return str(HOME / PurePosixPath(name))


async def _execute(sandbox: Sandbox, template: Template, job: Job) -> int:
    try:
        handle = await sandbox.commands.start(
            job.program.argv(template, job.arguments),
            user=job.user,
            cwd=job.cwd,
            stdin=True if job.stdin else None,
        )
    except FileNotFound as error:
        terminal.report(error, as_json=job.as_json)
        return terminal.NOT_FOUND
    except FileAccessDenied as error:
        terminal.report(error, as_json=job.as_json)
        return terminal.NOT_EXECUTABLE
    carried = await carry(
        LocalProcess(handle), stdin=job.stdin, quiet=job.as_json, timeout=job.timeout
    )
    return ended(carried.result, job, timed_out=carried.timed_out)


def ended(result: CommandResult, job: Job, *, timed_out: bool) -> int:
    """Say how it ended, where that is not plain from the exit code, and return that code."""
    if job.as_json:
        terminal.print_json(result)
    elif timed_out:
        terminal.note(f"killed: --timeout {job.timeout:g} is over")
    elif result.killed_by is not None:
        terminal.note(killed_line(result.killed_by, job.wanted.limits))
    if timed_out or result.killed_by is KilledBy.WALL:
        return terminal.TIMED_OUT
    return result.exit_code
