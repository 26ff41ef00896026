"""What one sandbox does, told to its log, the audit log and the tracer."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from atoll.engine.cell import CellCallbacks, TextCallback
from atoll.engine.logs.ids import bound, current
from atoll.engine.logs.sandbox_log import OutputLog, SandboxLog
from atoll.engine.tracing import Tracer, traced
from atoll.engine.wait_status import in_words
from atoll.model import KilledBy

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from atoll.engine.start_request import StartRequest


class SandboxWatch:
    """Tells what happens in one sandbox.

    Commands are told by the name of their program alone and variables by theirs: arguments and
    values may hold secrets.

    Args:
        sandbox: its id.
        log: its log.
        tracer: makes spans, or None.
    """

    def __init__(self, sandbox: str, log: SandboxLog, tracer: Tracer | None) -> None:
        self.log = log
        self._sandbox = sandbox
        self._tracer = tracer

    def started(self, pid: int, request: StartRequest) -> ProcessWatch:
        """A command or terminal has been started."""
        program = request.argv[0].rpartition("/")[2]
        with bound(execution=current().execution or secrets.token_hex(8)):
            self.log.act(
                "process.started",
                f"process {pid} started: {program}",
                pid=pid,
                program=program,
                arguments=len(request.argv) - 1,
                user=request.user,
                cwd=request.cwd,
                tag=request.tag,
                variables=sorted(request.env),
                terminal=request.terminal is not None,
            )
            span = None
            if self._tracer is not None:
                names = {"atoll.sandbox": self._sandbox, "atoll.program": program}
                span = self._tracer.begin("atoll.process", names)
            return ProcessWatch(self.log, pid, span)

    @contextmanager
    def cell(self, language: str, callbacks: CellCallbacks) -> Iterator[CellCallbacks]:
        """A cell runs inside the block, with the callbacks that are given back."""
        execution = current().execution or secrets.token_hex(8)
        names = {"atoll.sandbox": self._sandbox, "atoll.language": language}
        with bound(execution=execution), traced(self._tracer, "atoll.cell", **names):
            self.log.act("cell.started", f"a cell was given to {language}", language=language)
            source = self.log.source()
            yield CellCallbacks(
                _tapped(source, "stdout", callbacks.on_stdout),
                _tapped(source, "stderr", callbacks.on_stderr),
                callbacks.on_result,
                callbacks.on_error,
            )


class ProcessWatch:
    """Tells what one process writes and how it ends."""

    def __init__(self, log: SandboxLog, pid: int, span: Span | None) -> None:
        self._log = log
        self._pid = pid
        self._output = log.source(pid)
        self._ids = current()
        self._span = span

    def wrote(self, stream: str, data: bytes) -> None:
        """It has written `data` to `stream`."""
        self._output.add(stream, data)

    def ended(self, status: int, killed_by: KilledBy | None) -> None:
        """It has ended with this wait status."""
        how = in_words(status)
        with bound(**vars(self._ids)):
            self._log.event(
                "process.ended",
                f"process {self._pid} ended {how}",
                pid=self._pid,
                how=how,
                killed_by=None if killed_by is None else killed_by.value,
            )
        if self._span is not None:
            self._span.set_attribute("atoll.ending", how)
            self._span.end()
            self._span = None


def _tapped(source: OutputLog, stream: str, given: TextCallback | None) -> TextCallback:
    """A callback that keeps the text and passes it on."""

    def tell(text: str) -> Awaitable[None] | None:
        source.add_text(stream, text)
        return None if given is None else given(text)

    return tell
