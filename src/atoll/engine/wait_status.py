"""How a process ended, read from its wait status."""

from __future__ import annotations

import os
import signal


def exit_code_of(status: int) -> int:
    """The exit status, or 128 + the signal's number, as shells say it."""
    if os.WIFSIGNALED(status):
        return 128 + os.WTERMSIG(status)
    return os.WEXITSTATUS(status)


def signal_name(number: int) -> str:
    """``SIGTERM`` for 15; a real-time signal is ``SIG`` and its number."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"


def in_words(status: int) -> str:
    """For a log."""
    if os.WIFSIGNALED(status):
        return f"by {signal_name(os.WTERMSIG(status))}"
    return f"with exit code {os.WEXITSTATUS(status)}"
