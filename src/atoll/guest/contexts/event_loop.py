"""The event loop of a Python context: made by the first cell that needs one, then kept.

Tasks that a cell starts live on: they run while a later cell awaits, and between cells.
asyncio is imported on first use, because most contexts never need it.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio


class CellLoop:
    """One asyncio event loop that cells share."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """The coroutine's result. KeyboardInterrupt cancels it and is raised at its line."""
        import asyncio

        loop = self._ready_loop()
        task = loop.create_task(coroutine)
        try:
            return loop.run_until_complete(task)
        except (KeyboardInterrupt, SystemExit) as stop:
            if task.done():
                if not task.cancelled():
                    task.exception()
                raise
            raise stop.with_traceback(self._cancel(loop, task, asyncio.CancelledError)) from None

    def idle(self, fd: int) -> None:
        """Let unfinished tasks run until `fd` is readable; return at once if there are none."""
        loop = self._loop
        if loop is None or loop.is_closed():
            return
        import asyncio

        if not asyncio.all_tasks(loop):
            return
        loop.add_reader(fd, loop.stop)
        try:
            loop.run_forever()
        finally:
            loop.remove_reader(fd)

    def _ready_loop(self) -> asyncio.AbstractEventLoop:
        import asyncio

        if self._loop is None or self._loop.is_closed():
            self._loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self._loop)
        return self._loop

    def _cancel(
        self,
        loop: asyncio.AbstractEventLoop,
        task: asyncio.Task[Any],
        cancelled: type[BaseException],
    ) -> Any:
        """Cancel and wait: the traceback then leads to the line that was waiting."""
        task.cancel()
        try:
            loop.run_until_complete(task)
        except cancelled as error:
            return error.__traceback__
        return None
