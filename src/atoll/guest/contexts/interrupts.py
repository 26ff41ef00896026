"""SIGINT of a Python context: raises KeyboardInterrupt in a running cell, and nowhere else."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupts:
    """The handler and its state. A signal between two cells is forgotten.

    Attributes:
        armed: a SIGINT raises KeyboardInterrupt. To be set by a plain assignment: a call could
            itself be interrupted, with the signal still armed after it.
    """

    def __init__(self) -> None:
        self.armed = False
        self._held = 0
        self._pending = False

    def install(self) -> None:
        """Become the handler of SIGINT, also if a cell has put another one there."""
        signal.signal(signal.SIGINT, self._on_signal)

    def forget(self) -> None:
        """A SIGINT that came before the next cell is none of its."""
        self._pending = False

    @contextmanager
    def held(self) -> Iterator[None]:
        """Put a SIGINT off until the end of the block, so that a frame is written whole.

        Python runs signal handlers in the main thread only, so other threads need not hold.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1
            if self._pending and not self._held and self.armed:
                self._pending = False
                raise KeyboardInterrupt

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        if not self.armed:
            return
        if self._held:
            self._pending = True
            return
        raise KeyboardInterrupt
