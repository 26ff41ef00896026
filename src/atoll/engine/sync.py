"""The same engine without `await`: an event loop in a thread of its own, and calls into it."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Self, TypeVar, Unpack

from anyio.from_thread import BlockingPortal, start_blocking_portal

from atoll.engine.create_options import CreateOptions, EngineOptions
from atoll.engine.engine import Engine
from atoll.engine.front import Closing, Front, blocking, giving, plain
from atoll.engine.logs.sandbox_log import LogEntry
from atoll.engine.sandbox import END_GRACE_SECONDS, Sandbox
from atoll.engine.sync_parts import (
    SyncCommands,
    SyncFiles,
    SyncNetwork,
    SyncPtys,
    SyncTemplates,
)
from atoll.engine.templates import CODE_INTERPRETER
from atoll.model import (
    InvalidArgument,
    KilledBy,
    Metrics,
    MetricsSample,
    SandboxInfo,
    SandboxSpec,
    Template,
)

T = TypeVar("T")


class SyncSandbox(Closing, Front[Sandbox]):
    """`Sandbox` with plain methods: ``with SyncSandbox.create() as sandbox: …``.

    Callbacks run in worker threads and may call back.
    """

    def __init__(self, opened: tuple[BlockingPortal, Sandbox]) -> None:
        super().__init__(opened)
        self._thread = ExitStack()

    @classmethod
    def create(
        cls, template: str | Template = CODE_INTERPRETER, **options: Unpack[CreateOptions]
    ) -> SyncSandbox:
        """A sandbox with its own engine and thread, which end with it; as Sandbox.create."""
        thread, opened = _in_a_thread(functools.partial(Sandbox.create, template, **options))
        sandbox = cls(opened)
        sandbox._thread = thread
        return sandbox

    @property
    def id(self) -> str:
        """Its id."""
        return self._target.id

    @property
    def spec(self) -> SandboxSpec:
        """What it was made from."""
        return self._target.spec

    @property
    def info(self) -> SandboxInfo:
        """What `SyncEngine.list` shows of it."""
        return self._target.info

    @property
    def metadata(self) -> dict[str, str]:
        """The caller's own words about it."""
        return self._target.metadata

    @property
    def killed_by(self) -> KilledBy | None:
        """The limit that ended it, if one did."""
        return self._target.killed_by

    @property
    def commands(self) -> SyncCommands:
        """See Commands."""
        return SyncCommands(self._beside(self._target.commands))

    @property
    def files(self) -> SyncFiles:
        """See Files."""
        return SyncFiles(self._beside(self._target.files))

    @property
    def pty(self) -> SyncPtys:
        """See Ptys."""
        return SyncPtys(self._beside(self._target.pty))

    @property
    def network(self) -> SyncNetwork:
        """See SandboxNetwork."""
        return SyncNetwork(self._beside(self._target.network))

    is_running = plain(Sandbox.is_running)
    set_timeout = plain(Sandbox.set_timeout)
    run_code = blocking(Sandbox.run_code)
    create_context = blocking(Sandbox.create_context)
    list_contexts = blocking(Sandbox.list_contexts)
    restart_context = blocking(Sandbox.restart_context)
    remove_context = blocking(Sandbox.remove_context)
    interrupt_context = blocking(Sandbox.interrupt_context)
    pause = blocking(Sandbox.pause)
    resume = blocking(Sandbox.resume)
    gone = blocking(Sandbox.gone)
    connect = blocking(Sandbox.connect)

    def metrics(self) -> Metrics:
        """See Sandbox.metrics."""
        return self._call(Sandbox.metrics)

    def metrics_history(
        self, start: float | None = None, end: float | None = None
    ) -> list[MetricsSample]:
        """See Sandbox.metrics_history."""
        return self._call(Sandbox.metrics_history, start, end)

    def logs(self, *, follow: bool = False, since: int = 0) -> Iterator[LogEntry]:
        """See Sandbox.logs."""
        return self._iterate(self._target.logs(follow=follow, since=since))

    def kill(self, *, grace: float = END_GRACE_SECONDS) -> bool:
        """See Sandbox.kill."""
        with self._thread:
            return self._call(Sandbox.kill, grace=grace)

    def _leave(self) -> None:
        self.kill(grace=0)


class SyncEngine(Closing, Front[Engine]):
    """`Engine` with plain methods: ``with SyncEngine() as engine: …``. Takes the same arguments."""

    def __init__(self, **options: Unpack[EngineOptions]) -> None:
        super().__init__(None)
        self._options = options
        self._thread = ExitStack()

    def __enter__(self) -> Self:
        if self._opened is not None:
            raise InvalidArgument("this engine has been started already")
        self._thread, self._opened = _in_a_thread(self._start)
        return self

    async def _start(self) -> Engine:
        engine = Engine(**self._options)
        await engine.start()
        return engine

    def _leave(self) -> None:
        with self._thread:
            self._call(Engine.close)
            self._opened = None

    @property
    def data_dir(self) -> Path:
        """Where templates and owners live."""
        return self._target.data_dir

    @property
    def templates(self) -> SyncTemplates:
        """See Templates."""
        return SyncTemplates(self._beside(self._target.templates))

    create = giving(SyncSandbox, Engine.create)
    get = giving(SyncSandbox, Engine.get)
    list = plain(Engine.list)
    kill = blocking(Engine.kill)
    warm = blocking(Engine.warm)
    prometheus = plain(Engine.prometheus)


def _in_a_thread(
    make: Callable[[], Awaitable[T]],
) -> tuple[ExitStack, tuple[BlockingPortal, T]]:
    """What `make` gives, in a loop and thread of its own, which end when the stack is closed."""
    with ExitStack() as opening:
        portal = opening.enter_context(start_blocking_portal())
        # Made in the loop's thread, as its events belong to that loop.
        made = portal.call(make)
        return opening.pop_all(), (portal, made)
