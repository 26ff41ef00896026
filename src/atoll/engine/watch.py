"""Changes in a directory of a sandbox, in the order in which they happened."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Self

import anyio

from atoll.engine.file_worker import FileWorker, FileWorkers
from atoll.model import WatchEvent

_TYPES = frozenset({"create", "write", "remove", "rename", "chmod", "overflow"})


class Watch:
    """Iterate it for WatchEvents; close it, or use it in ``async with``.

    It ends by itself when the directory is removed or the sandbox ends.
    """

    def __init__(self, worker: FileWorker, resources: AsyncExitStack) -> None:
        self._worker = worker
        self._resources = resources
        self._reading: anyio.CancelScope | None = None
        self._closed = False

    @classmethod
    async def open(
        cls, workers: FileWorkers, path: str, recursive: bool, user: str | None
    ) -> Watch:
        """Start watching; what happens after this returns is reported."""
        async with AsyncExitStack() as opening:
            run = workers.run("watch", user, path=path, recursive=recursive)
            worker = await opening.enter_async_context(run)
            await worker.answer()
            return cls(worker, opening.pop_all())
        raise AssertionError("an exit stack swallows nothing")

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> WatchEvent:
        event = None
        with anyio.CancelScope() as self._reading:
            if not self._closed:
                event = await self._worker.object()
        self._reading = None
        if event is None:
            raise StopAsyncIteration
        kind, path = event.get("type"), event.get("path")
        if kind not in _TYPES or not isinstance(path, str):
            raise self._worker.broken("sent an event that does not exist")
        return WatchEvent(kind, path)

    async def close(self) -> None:
        """Stop watching; an iteration that waits ends. May be called twice."""
        self._closed = True
        if self._reading is not None:
            self._reading.cancel()
        await self._resources.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
