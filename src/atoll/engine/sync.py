"""The same engine without `await`: an event loop in a thread of its own, and calls into it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

import anyio.from_thread
import anyio.to_thread
from anyio.from_thread import BlockingPortal

from atoll.engine.commands import CommandHandle, Commands
from atoll.engine.engine import Engine
from atoll.engine.files import Files
from atoll.engine.pty import PtyHandle, Ptys
from atoll.engine.sandbox import Sandbox
from atoll.engine.templates import Templates
from atoll.engine.watch import Watch

_FRONTED = (CommandHandle, Commands, Files, PtyHandle, Ptys, Templates, Watch, AsyncIterator)


class SyncFront:
    """Stands for an object of the engine: its coroutine methods are plain methods here.

    Callbacks run in a worker thread, one at a time, so they may call back into the front.
    """

    def __init__(self, portal: BlockingPortal, target: Any) -> None:
        self._portal = portal
        self._target = target

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._target, name)
        if not callable(value) or isinstance(value, type):
            return self._front(value)

        @functools.wraps(value)
        def call(*args: Any, **kwargs: Any) -> Any:
            args = tuple(_inward(arg) for arg in args)
            kwargs = {key: _inward(arg) for key, arg in kwargs.items()}
            return self._call(functools.partial(value, *args, **kwargs))

        return call

    def __repr__(self) -> str:
        return f"<sync front of {self._target!r}>"

    def __iter__(self) -> Iterator[Any]:
        """Go through an async iterable, item by item."""
        iterator = self._target.__aiter__()
        while True:
            try:
                yield self._front(self._portal.call(iterator.__anext__))
            except StopAsyncIteration:
                return

    def __enter__(self) -> Self:
        self._call(self._target.__aenter__)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._call(functools.partial(self._target.__aexit__, kind, error, traceback))

    def _call(self, work: Callable[[], Any]) -> Any:
        return self._front(self._portal.call(_awaited, work))

    def _front(self, value: Any) -> Any:
        if isinstance(value, Sandbox):
            return SyncSandbox(self._portal, value)
        return SyncFront(self._portal, value) if isinstance(value, _FRONTED) else value


class SyncSandbox(SyncFront):
    """`Sandbox` with plain methods: ``with SyncSandbox.create() as sandbox: …``."""

    @classmethod
    def create(cls, *args: Any, **kwargs: Any) -> SyncSandbox:
        """A sandbox with its own engine and thread, which end with it; as Sandbox.create."""
        with ExitStack() as opening:
            portal = opening.enter_context(anyio.from_thread.start_blocking_portal())
            target = portal.call(functools.partial(Sandbox.create, *args, **kwargs))
            sandbox = cls(portal, target)
            sandbox._thread = opening.pop_all()
        return sandbox

    def __init__(self, portal: BlockingPortal, target: Sandbox) -> None:
        super().__init__(portal, target)
        self._thread = ExitStack()

    def kill(self, **kwargs: Any) -> bool:
        """As Sandbox.kill."""
        with self._thread:
            return bool(self._call(functools.partial(self._target.kill, **kwargs)))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._thread:
            super().__exit__(kind, error, traceback)


class SyncEngine(SyncFront):
    """`Engine` with plain methods: ``with SyncEngine() as engine: …``. Takes the same arguments."""

    def __init__(self, **kwargs: Any) -> None:
        self._make = functools.partial(Engine, **kwargs)
        self._thread = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as opening:
            portal = opening.enter_context(anyio.from_thread.start_blocking_portal())
            # Made in the loop's thread, as its events belong to that loop.
            super().__init__(portal, portal.call(self._make))
            self._call(self._target.start)
            self._thread = opening.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._thread:
            self._call(self._target.close)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        if "_target" not in self.__dict__:
            raise RuntimeError("use it in a block: `with SyncEngine() as engine:`")
        return super().__getattr__(name)


async def _awaited(work: Callable[[], Any]) -> Any:
    value = work()
    return await value if inspect.isawaitable(value) else value


def _inward(value: Any) -> Any:
    """What the engine is given for a caller's argument."""
    if isinstance(value, SyncFront):
        return value._target
    is_callback = inspect.isfunction(value) or inspect.ismethod(value) or inspect.isbuiltin(value)
    if is_callback and not inspect.iscoroutinefunction(value):

        async def in_thread(*args: Any) -> Any:
            return await anyio.to_thread.run_sync(functools.partial(value, *args))

        return in_thread
    if isinstance(value, Iterator):
        return _pieces(value)
    return value


async def _pieces(values: Iterable[Any]) -> AsyncIterator[Any]:
    iterator = iter(values)
    end = object()
    while (piece := await anyio.to_thread.run_sync(next, iterator, end)) is not end:
        yield piece
