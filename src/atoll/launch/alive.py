"""The sandboxes that a launcher has made and not destroyed yet, and the end of each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

import anyio


class EndsOnce(ABC):
    """What `LaunchedSandbox.destroy` promises: it ends once, and whoever asks again waits.

    Args:
        forget: called when nothing of it is left.
    """

    def __init__(self, forget: Callable[[], None]) -> None:
        self._forget = forget
        self._gone = False
        self._ended = anyio.Event()

    async def destroy(self) -> None:
        """See LaunchedSandbox.destroy."""
        if self._gone:
            await self._ended.wait()
            return
        self._gone = True
        with anyio.CancelScope(shield=True):
            try:
                await self._end()
            finally:
                self._forget()
                self._ended.set()

    @abstractmethod
    async def _end(self) -> None:
        """Kill every process of it and remove what was made for it."""


S = TypeVar("S", bound=EndsOnce)


class Alive(Generic[S]):
    """One launcher's sandboxes."""

    def __init__(self) -> None:
        self._sandboxes: set[S] = set()

    def __iter__(self) -> Iterator[S]:
        return iter(list(self._sandboxes))

    @asynccontextmanager
    async def adding(self, sandbox: S) -> AsyncIterator[None]:
        """Start `sandbox` in this block: it is destroyed if the block fails or is cancelled."""
        self._sandboxes.add(sandbox)
        try:
            yield
        except BaseException:
            await sandbox.destroy()
            raise

    def discard(self, sandbox: S) -> None:
        """It has ended."""
        self._sandboxes.discard(sandbox)

    async def destroy(self) -> None:
        """Destroy all."""
        with anyio.CancelScope(shield=True):
            for sandbox in self:
                await sandbox.destroy()
