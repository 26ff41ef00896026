"""`atoll doctor`: what this machine can do, and the exact fix for what it cannot."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from atoll.cli import terminal
from atoll.cli.settings import AsJson, settings_of
from atoll.model import InvalidArgument, LauncherUnavailable

if TYPE_CHECKING:
    from atoll.launch.linux.doctor_machine import Check, Machine

_WIDTH = 100
_INDENT = " " * 6
_COLOURS = {"ok": "\033[32m", "warn": "\033[33m", "fail": "\033[31m"}


def doctor(
    context: typer.Context,
    report: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a bundle for a bug report, without secrets."),
    ] = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Show only what stands in the way.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Look at this machine, say what sandboxes can have here, and how to mend what they cannot.

    The exit code is 1 if no sandbox can be made.
    """

    async def work() -> int:
        from atoll.engine import default_data_dir

        machine = _here(settings_of(context).data_dir or default_data_dir())
        if report is not None:
            _write(report, machine)
        return examine(machine, quiet=quiet, as_json=as_json)

    raise typer.Exit(terminal.finish(work, as_json=as_json))


def _here(data_dir: Path) -> Machine:
    if sys.platform != "linux":
        raise LauncherUnavailable(
            f"`atoll doctor` knows Linux, not {sys.platform}",
            hint="on macOS the launcher is seatbelt, which is untested",
        )
    from atoll.launch.linux.doctor_machine import Machine

    return Machine.here(data_dir)


def _write(path: Path, machine: Machine) -> None:
    from atoll.launch.linux.doctor import report

    try:
        path.write_text(json.dumps(report(machine), indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise InvalidArgument(f"cannot write {path}: {error.strerror}") from None
    terminal.note(f"wrote {path}; read it before you send it")


def examine(machine: Machine, *, quiet: bool, as_json: bool) -> int:
    """Print the findings for `machine`, and offer the one fix that is a single safe command."""
    from atoll.launch.linux.doctor import checks, works

    findings = checks(machine)
    if as_json:
        terminal.print_json({"works": works(findings), "checks": findings})
        return 0 if works(findings) else 1
    for finding in findings:
        if not quiet or finding.verdict == "fail":
            sys.stdout.write(lines_of(finding))
    if works(findings):
        if not quiet:
            sys.stdout.write("Sandboxes can be made here.\n")
        return 0
    sys.stdout.write("No sandbox can be made here until the lines marked `fail` are mended.\n")
    sys.stdout.flush()
    return 0 if _mended(machine, findings) else 1


def lines_of(finding: Check) -> str:
    """One line for a finding, and its fix below."""
    mark = finding.verdict.ljust(4)
    if sys.stdout.isatty() and terminal.coloured():
        mark = f"{_COLOURS[finding.verdict]}{mark}\033[0m"
    seen = terminal.harmless(f"{finding.name}: {finding.seen}")
    text = f"{mark}  {seen}\n"
    if finding.fix:
        # A command has to stay in one piece, to be copied: only prose is wrapped.
        fix = finding.fix if "`" in finding.fix else textwrap.fill(finding.fix, _WIDTH)
        text += textwrap.indent(fix, _INDENT) + "\n"
    return text


def _mended(machine: Machine, findings: list[Check]) -> bool:
    """Offer to install the AppArmor profile, where that is what is wrong and somebody is there."""
    from atoll.launch.linux import doctor_apparmor
    from atoll.launch.linux.doctor import checks, works

    wrong = [finding.name for finding in findings if finding.verdict == "fail"]
    program = doctor_apparmor.attachment(machine.executable, machine.prefix)
    if "AppArmor" not in wrong or program is None or not sys.stdin.isatty():
        return False
    command = doctor_apparmor.install_command(program)
    sys.stdout.write(f"\nThis command installs a profile for {program} alone:\n\n{command}\n\n")
    if not typer.confirm("Run it now with sudo?", default=False):
        return False
    if subprocess.run(["/bin/sh", "-c", command], check=False).returncode != 0:
        terminal.note("the command failed; nothing else was tried")
        return False
    after = checks(_here(machine.data_dir or Path.cwd()))
    sys.stdout.write("".join(lines_of(f) for f in after if f.verdict == "fail"))
    return works(after)
