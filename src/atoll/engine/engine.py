"""One process's sandboxes: makes them, hands them out, watches their leases, ends them all."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Self

import anyio
import anyio.abc
import anyio.to_thread

from atoll.engine.adoption import adopt
from atoll.engine.clock import Clock, SystemClock
from atoll.engine.commands import check_environment
from atoll.engine.deadlines import Deadlines
from atoll.engine.descriptors import allow_many_descriptors
from atoll.engine.logs.settings import Logging
from atoll.engine.metrics.settings import Monitoring
from atoll.engine.network import NetworkChoice, WayOut
from atoll.engine.observation import Observation
from atoll.engine.owner import Owner, default_data_dir, reap_dead
from atoll.engine.owner_socket import OwnerSocket
from atoll.engine.pool import Pool
from atoll.engine.sandbox import Sandbox
from atoll.engine.surroundings import Surroundings
from atoll.engine.templates import CODE_INTERPRETER, Templates
from atoll.engine.vault import Vault
from atoll.launch import Adopts, Launcher, choose
from atoll.model import (
    InvalidArgument,
    Limits,
    LimitUnavailable,
    Mount,
    NetworkPolicy,
    SandboxInfo,
    SandboxNotFound,
    SandboxSpec,
    Template,
)

_log = logging.getLogger(__name__)


def new_sandbox_id() -> str:
    """20 hexadecimal digits: no two alike, and a valid part of a host name."""
    return secrets.token_hex(10)


class Engine:
    """Makes sandboxes on this machine. Use it in ``async with``; leaving ends every sandbox.

    Args:
        data_dir: where templates and owners live; see `default_data_dir`.
        launcher: ``namespaces``, ``bubblewrap`` or ``seatbelt``; None: this platform's default.
        pool: spare sandboxes to keep ready for each kind that is asked for.
        owner: this owner's name, for a daemon; None: a new one.
        clock: what leases and limits in time go by.
        monitoring: what is measured of sandboxes, and how long it is kept.
        logging: where the log goes; None: to nobody but the standard library's logging.
        new_id: makes the ids of sandboxes.
    """

    def __init__(
        self,
        *,
        data_dir: Path | str | None = None,
        launcher: str | Launcher | None = None,
        pool: int = 0,
        owner: str | None = None,
        clock: Clock | None = None,
        monitoring: Monitoring | None = None,
        logging: Logging | None = None,
        new_id: Callable[[], str] = new_sandbox_id,
    ) -> None:
        if isinstance(pool, bool) or not isinstance(pool, int) or pool < 0:
            raise InvalidArgument(f"a pool is a number of sandboxes, not {pool!r}")
        self.data_dir = Path(data_dir) if data_dir is not None else default_data_dir()
        self.templates = Templates(self.data_dir)
        self._asked_launcher = launcher
        self._asked_owner = owner
        self._clock = clock or SystemClock()
        self._new_id = new_id
        self._deadlines = Deadlines(self._clock)
        self._pool = Pool(pool, self._launch_spare, self._spawn)
        self._sandboxes: dict[str, Sandbox] = {}
        self._claimed: dict[str, Sandbox] = {}
        self._launcher: Launcher | None = None
        self._owner: Owner | None = None
        self._tasks: anyio.abc.TaskGroup | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._stop = anyio.Event()
        self._clean = True
        self._only: Sandbox | None = None
        self._vault = Vault()
        self._adopts: Adopts | None = None
        self.observation = Observation(
            monitoring or Monitoring(),
            logging or Logging(),
            self._clock,
            lambda: list(self._claimed.values()),
        )
        self._way_out = WayOut(self.data_dir)

    async def start(self) -> None:
        """Become an owner, reap dead ones, and be ready to create.

        Raises:
            OwnerError: the data directory cannot be used. LauncherUnavailable.
        """
        if self._supervisor is not None:
            raise InvalidArgument("this engine has been started already")
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # Its own task, so that the engine's tasks do not hang on cancel scopes of whoever made it:
        # a sandbox may be ended in another task than the one that created it. `close` awaits it.
        self._supervisor = asyncio.get_running_loop().create_task(self._supervise(ready))
        try:
            await ready
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """End every sandbox and the launcher. May be called twice."""
        if self._supervisor is None:
            return
        self._stop.set()
        with anyio.CancelScope(shield=True):
            await asyncio.wait([self._supervisor])
        if not self._supervisor.cancelled() and (error := self._supervisor.exception()):
            raise error

    def end_with(self, sandbox: Sandbox) -> None:
        """End when `sandbox` has ended."""
        self._only = sandbox
        if not sandbox.is_running():
            self._stop.set()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def create(
        self,
        template: str | Template = CODE_INTERPRETER,
        *,
        timeout: float | None = None,
        metadata: dict[str, str] | None = None,
        env: dict[str, str] | None = None,
        limits: Limits | None = None,
        network: NetworkChoice = None,
        mounts: Sequence[Mount] = (),
    ) -> Sandbox:
        """A new sandbox. Cancelled, it leaves nothing behind.

        Args:
            template: its name, or one of your own.
            timeout: its lease in seconds: it is killed then, unless `set_timeout` renews it.
            metadata: the caller's own words about it.
            env: environment of all its commands and cells.
            limits: what it may use; None: the defaults.
            network: what it may reach: None, False or ``"none"``: its own loopback; True or
                ``"internet"``: what is not closed to everybody; else see NetworkPolicy.
            mounts: host paths to show in it.

        Raises:
            UnknownTemplate, TemplateError: no such template, or it cannot be built.
            NetworkUnavailable, LimitUnavailable, WallUnavailable, WallCheckFailed: it would not be
                as isolated or limited as asked.
        """
        policy = NetworkPolicy.of(network)
        limits = limits or Limits()
        labels = _labels(metadata)
        variables = check_environment(env)
        name = template if isinstance(template, str) else template.name
        with self.observation.creating(name) as creation:
            template = await self.templates.resolve(template)
            sandbox = None if mounts else self._pool.take(template, limits)
            creation.from_pool = sandbox is not None
            if sandbox is None:
                spec = SandboxSpec(self._new_id(), template, limits, mounts=tuple(mounts))
                sandbox = await self._launch(spec)
            self._claimed[sandbox.id] = sandbox
            try:
                if policy is not None:
                    await sandbox.network.open(policy)
                await sandbox.claim(variables, labels, timeout)
            except BaseException:
                await sandbox.kill(grace=0)
                raise
            creation.sandbox, creation.variables = sandbox, tuple(sorted(variables))
        return sandbox

    def prometheus(self) -> bytes:
        """Totals and the latest sample of each sandbox, in Prometheus' text format."""
        return self.observation.exposition.text()

    def list(self) -> list[SandboxInfo]:
        """This engine's sandboxes, oldest first."""
        return [sandbox.info for sandbox in self._claimed.values()]

    async def get(self, id: str) -> Sandbox:
        """The sandbox `id` of this engine. Raises SandboxNotFound."""
        sandbox = self._claimed.get(id)
        if sandbox is None:
            raise SandboxNotFound(f"this engine has no sandbox {id!r}")
        return sandbox

    async def kill(self, id: str) -> bool:
        """End the sandbox `id`; False if there is none."""
        sandbox = self._claimed.get(id)
        return sandbox is not None and await sandbox.kill()

    async def warm(
        self, template: str | Template = CODE_INTERPRETER, limits: Limits | None = None
    ) -> None:
        """Start the template's zygote and fill the pool for it now, not at the first create."""
        template = await self.templates.resolve(template)
        await self._running_launcher().prepare(template)
        await self._pool.fill(template, limits or Limits())

    def _running_launcher(self) -> Launcher:
        if self._launcher is None or self._stop.is_set():
            raise InvalidArgument(
                "this engine is not running", hint="use it inside `async with Engine() as engine`"
            )
        return self._launcher

    async def _launch_spare(self, template: Template, limits: Limits) -> Sandbox:
        sandbox = await self._launch(SandboxSpec(self._new_id(), template, limits))
        try:
            await sandbox.prepare()
        except BaseException:
            await sandbox.kill_now()
            raise
        return sandbox

    async def _launch(self, spec: SandboxSpec) -> Sandbox:
        launcher = self._running_launcher()
        launched = await launcher.launch(spec)
        try:
            self._running_launcher()
            if spec.limits.cpu_time is not None and launched.metrics().cpu_time is None:
                raise LimitUnavailable("limit cpu_time cannot be held: nothing counts CPU time")
            self._journal_launched(spec, launched.pid)
            sandbox = Sandbox(launched, spec, self._around())
        except BaseException:
            with anyio.CancelScope(shield=True):
                await launched.destroy()
            raise
        self._sandboxes[spec.id] = sandbox
        return sandbox

    def _around(self) -> Surroundings:
        return Surroundings(
            launcher=self._running_launcher().name,
            clock=self._clock,
            deadlines=self._deadlines,
            spawn=self._spawn,
            forget=self._forget,
            vault=self._vault,
            observation=self.observation,
            adopts=self._adopts,
            way_out=self._way_out,
        )

    def _journal_launched(self, spec: SandboxSpec, pid: int) -> None:
        if self._owner is not None:
            self._owner.journal.launched(spec.id, pid, spec.template.name)

    def _forget(self, sandbox: Sandbox, clean: bool) -> None:
        self._sandboxes.pop(sandbox.id, None)
        if self._claimed.pop(sandbox.id, None) is not None:
            self.observation.ended(sandbox)
        self._clean = self._clean and clean
        if clean and self._owner is not None:
            self._owner.journal.gone(sandbox.id)
        if sandbox is self._only:
            self._stop.set()

    def _spawn(self, work: Callable[..., Awaitable[Any]], *args: Any) -> None:
        if self._tasks is not None:
            self._tasks.start_soon(self._guarded, work, args)

    async def _guarded(self, work: Callable[..., Awaitable[Any]], args: tuple[Any, ...]) -> None:
        # One sandbox's trouble must not cancel the tasks of all the others.
        try:
            await work(*args)
        except Exception:
            _log.exception("a background task failed")

    async def _supervise(self, ready: asyncio.Future[None]) -> None:
        try:
            async with anyio.create_task_group() as tasks:
                self._tasks = tasks
                try:
                    await self._begin()
                    tasks.start_soon(self._deadlines.run)
                    tasks.start_soon(self.observation.collector.run)
                    tasks.start_soon(self._socket.serve)
                    if not ready.done():  # whoever waits for the start may have been cancelled
                        ready.set_result(None)
                    await self._stop.wait()
                finally:
                    with anyio.CancelScope(shield=True):
                        await self._end()
                    tasks.cancel_scope.cancel()
        except BaseException as error:
            if ready.done():
                raise
            ready.set_exception(_single(error))

    async def _begin(self) -> None:
        allow_many_descriptors()
        owner = await anyio.to_thread.run_sync(Owner.acquire, self.data_dir, self._asked_owner)
        self._owner = owner
        await self.observation.open(self.data_dir)
        await anyio.to_thread.run_sync(reap_dead, self.data_dir, owner)
        asked = self._asked_launcher
        if asked is None or isinstance(asked, str):
            asked = choose(asked, owner.launch_directory, owner.kernel_name)
        owner.journal.launcher(asked.name)
        self._launcher = asked
        self._socket = OwnerSocket(owner.socket_path, owner.id, self)
        if self._asked_owner is not None and isinstance(asked, Adopts):
            await self._open_vault(owner, asked)

    async def _open_vault(self, owner: Owner, launcher: Adopts) -> None:
        """Adopt what a former process of this owner left alive; keep ours alive after us."""
        self._adopts = launcher
        if owner.has_former_life:
            self._vault, entries = await anyio.to_thread.run_sync(Vault.return_to, owner.directory)
            adopted = await adopt(entries, launcher, self._around())
            self._sandboxes.update(adopted)
            self._claimed.update(adopted)
            await anyio.to_thread.run_sync(owner.end_former_life, set(self._sandboxes))
            await launcher.settle()
        else:
            self._vault = await anyio.to_thread.run_sync(Vault.start, owner.directory)

    async def _end(self) -> None:
        self._stop.set()
        self._pool.close()
        async with anyio.create_task_group() as ending:
            for sandbox in list(self._sandboxes.values()):
                ending.start_soon(self._guarded, sandbox.kill_now, ())
        self._vault.end()
        await self._way_out.close()
        try:
            if self._launcher is not None:
                await self._launcher.close()
        except Exception:
            self._clean = False
            _log.exception("the launcher did not close cleanly")
        finally:
            if self._owner is not None:
                await anyio.to_thread.run_sync(lambda: self._release())
            await self.observation.close()

    def _release(self) -> None:
        if self._owner is not None:
            self._owner.release(clean=self._clean)
            self._owner = None


def _single(error: BaseException) -> BaseException:
    """What a group of one exception stands for."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _labels(metadata: dict[str, str] | None) -> dict[str, str]:
    for name, value in (metadata or {}).items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise InvalidArgument(f"metadata must be texts by name, not {name!r}: {value!r}")
    return dict(metadata or {})
