"""How the command line speaks: errors, tables, JSON, progress and exit codes."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Any

import anyio

from atoll.model import AtollError, LimitUnavailable

OWN_FAILURE = 1
"""Exit code of a command that Atoll could not carry out."""

RUN_FAILURE = 125
"""The same for commands that pass a program's exit code on; docker and podman use it so."""

NOT_EXECUTABLE = 126
NOT_FOUND = 127
TIMED_OUT = 124
"""What timeout(1) exits with."""

INTERRUPTED = 130
PIPE_CLOSED = 141
"""What the shell gives a program that SIGPIPE ended, such as the left side of `... | head`."""

_ENDINGS = (KeyboardInterrupt, BrokenPipeError)
_LIFTED = re.compile(r"\b([a-z_]+)=None\b")
_RED, _BOLD, _RESET = "\033[31m", "\033[1m", "\033[0m"


def finish(
    work: Callable[[], Awaitable[int]],
    *,
    as_json: bool = False,
    failure: int = OWN_FAILURE,
    interrupted: str = "interrupted",
) -> int:
    """Run `work` to its exit code.

    Args:
        as_json: print an error as JSON.
        failure: exit code for Atoll's own errors, which become a message.
        interrupted: what to say after Ctrl-C, which is 130.
    """
    try:
        return anyio.run(work)
    except (AtollError, *_ENDINGS) as error:
        known: BaseException | None = error
    except BaseExceptionGroup as group:
        known = sole_error(group)
        if known is None:
            raise
    if isinstance(known, KeyboardInterrupt):
        sys.stderr.write(f"\n{interrupted}\n")
        return INTERRUPTED
    if isinstance(known, BrokenPipeError):
        return PIPE_CLOSED
    if isinstance(known, AtollError):
        report(known, as_json=as_json)
    return failure


def sole_error(group: BaseExceptionGroup[BaseException]) -> BaseException | None:
    """The first Atoll error or ending of a task group in which nothing else went wrong."""
    wanted = (AtollError, *_ENDINGS)
    _, others = group.split(wanted)
    if others is not None:
        return None
    inner: BaseException = group
    while isinstance(inner, BaseExceptionGroup):
        inner = inner.exceptions[0]
    return inner


def report(error: AtollError, *, as_json: bool = False) -> None:
    """One red line on stderr and the hint under it; with `as_json` one object on stdout."""
    if as_json:
        print_json({"error": error_fields(error)})
        return
    where = f"[{error.sandbox_id}] " if error.sandbox_id else ""
    line = f"Error: {where}{harmless(error.message)}"
    sys.stderr.write((f"{_RED}{line}{_RESET}" if coloured() else line) + "\n")
    hint = hint_of(error)
    if hint:
        head = f"{_BOLD}Hint:{_RESET}" if coloured() else "Hint:"
        sys.stderr.write(f"{head} {harmless(hint)}\n")


def hint_of(error: AtollError) -> str | None:
    """Its hint; what the library calls ``memory=None`` is ``--memory none`` here."""
    if error.hint is None or not isinstance(error, LimitUnavailable):
        return error.hint
    return _LIFTED.sub(lambda match: f"--{match[1].replace('_', '-')} none", error.hint)


def harmless(text: str) -> str:
    """`text` without control characters: some of it may be a sandbox's, and this is a terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else f"\\x{ord(c):02x}" for c in text)


def error_fields(error: AtollError) -> dict[str, str | None]:
    """The one JSON shape of an error."""
    return {
        "code": error.code,
        "message": error.message,
        "hint": hint_of(error),
        "sandbox_id": error.sandbox_id,
    }


def note(line: str) -> None:
    """One line about what Atoll did, on stderr, out of the program's way."""
    sys.stderr.write(f"atoll: {harmless(line)}\n")


def coloured() -> bool:
    """True if stderr is a terminal and nobody said NO_COLOR (no-color.org)."""
    return sys.stderr.isatty() and not os.environ.get("NO_COLOR")


def print_json(value: object) -> None:
    """`value` as one line of JSON on stdout; dataclasses, enums and paths included."""
    sys.stdout.write(json.dumps(plain(value), ensure_ascii=False) + "\n")


def plain(value: object) -> Any:
    """`value` as what JSON knows."""
    if isinstance(value, Enum):
        return value.value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return value


def print_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns as wide as their widest cell, as ps(1) prints them."""
    lines = [[head.upper() for head in heads], *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    for line in lines:
        padded = (harmless(cell).ljust(width) for cell, width in zip(line, widths, strict=True))
        sys.stdout.write("   ".join(padded).rstrip() + "\n")


@contextmanager
def progress(what: str, *, lines: bool = True) -> Iterator[Callable[[str, float | None], None]]:
    """A bar on stderr while something long runs: call it with (step, share done or None).

    Where stderr is no terminal each new step is one line, unless `lines` is false.
    """
    if not sys.stderr.isatty():
        yield _lines(what) if lines else (lambda _step, _share: None)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)

        def tell(step: str, share: float | None) -> None:
            known = share is not None
            bar.update(
                task,
                description=f"{what}: {step}" if step else what,
                total=1.0 if known else None,
                completed=share if known else None,
            )

        yield tell


def _lines(what: str) -> Callable[[str, float | None], None]:
    last = ""

    def tell(step: str, share: float | None) -> None:
        nonlocal last
        if step != last:
            sys.stderr.write(f"{what}: {step}\n")
            sys.stderr.flush()
            last = step

    return tell
