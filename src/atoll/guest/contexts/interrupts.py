"""SIGINT of a Python context: raises KeyboardInterrupt in a running cell, and nowhere else."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupts:
    """The handler and its state. A signal between two cells is forgotten."""

    def __init__(self) -> None:
        self._armed = False
        self._held = 0
        self._pending = False

    def install(self) -> None:
        """Become the handler of SIGINT, also if a cell has put another one there."""
        signal.signal(signal.SIGINT, self._on_signal)

    def arm(self) -> None:
        """From here a SIGINT raises KeyboardInterrupt."""
        self._pending = False
        self._armed = True

    def disarm(self) -> None:
        """From here a SIGINT does nothing."""
        self._armed = False

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
            if self._pending and not self._held and self._armed:
                self._pending = False
                raise KeyboardInterrupt

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        if not self._armed:
            return
        if self._held:
            self._pending = True
            return
        raise KeyboardInterrupt
