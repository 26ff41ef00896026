"""An exception of a cell as the ``error`` event: only the user's own frames and line numbers."""

from __future__ import annotations

import traceback
from types import TracebackType
from typing import Any

CELL_PREFIX = "<cell "
"""How the file name of every cell starts."""

_OWN_DIRECTORY = __file__.rpartition("/")[0]
_LONGEST_TEXT = 1 << 20
_MOST_FRAMES = 100


def describe(error: BaseException) -> dict[str, Any]:
    """The ``error`` event, without its id."""
    start = first_user_frame(error.__traceback__)
    report = traceback.TracebackException(type(error), error, start)
    _leave_out_own(report)
    text = "".join(report.format())
    frames = [
        {"filename": frame.filename, "line": frame.lineno or 0, "function": frame.name}
        for frame in report.stack
    ]
    if isinstance(error, SyntaxError) and error.filename and error.lineno:
        frames.append(
            {"filename": str(error.filename), "line": int(error.lineno), "function": "<module>"}
        )
    return {
        "event": "error",
        "name": type(error).__name__,
        "value": shorten(_text_of(error)),
        "traceback": shorten(text),
        "frames": frames[-_MOST_FRAMES:],
    }


def first_user_frame(trace: TracebackType | None) -> TracebackType | None:
    """`trace` from its first frame in a cell on, or else without our own leading frames."""
    step = trace
    while step is not None:
        if step.tb_frame.f_code.co_filename.startswith(CELL_PREFIX):
            return step
        step = step.tb_next
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(_OWN_DIRECTORY):
        trace = trace.tb_next
    return trace


def _leave_out_own(report: traceback.TracebackException | None) -> None:
    """Take our own frames (signal handler, stand-ins of builtins) out of a chain of reports."""
    while report is not None:
        report.stack[:] = [
            frame for frame in report.stack if not frame.filename.startswith(_OWN_DIRECTORY)
        ]
        report = report.__cause__ or report.__context__


def shorten(text: str) -> str:
    """`text`, or its two ends if it is longer than any reader wants."""
    if len(text) <= _LONGEST_TEXT:
        return text
    half = _LONGEST_TEXT // 2
    left_out = len(text) - 2 * half
    return f"{text[:half]}\n... {left_out} characters left out ...\n{text[-half:]}"


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as failure:
        return f"<{type(error).__name__}: its text could not be made: {type(failure).__name__}>"
