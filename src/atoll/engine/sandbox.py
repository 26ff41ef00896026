"""One sandbox as its users see it: commands, files, terminals, contexts, and its own end."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from typing import Self, Unpack

import anyio
import anyio.lowlevel

from atoll.engine.breaches import Breaches
from atoll.engine.cell import CellCallbacks, ErrorCallback, ResultCallback, TextCallback
from atoll.engine.channel import GuestChannel
from atoll.engine.commands import Commands
from atoll.engine.configuration import configure
from atoll.engine.context_record import Context, context_id
from atoll.engine.create_options import CreateOptions
from atoll.engine.file_worker import FileWorkers
from atoll.engine.files import Files
from atoll.engine.former_life import FormerLife
from atoll.engine.interpreters import Interpreters
from atoll.engine.lifetime import Lifetime
from atoll.engine.network import SandboxNetwork, check_port
from atoll.engine.observed import Observed
from atoll.engine.processes import Processes
from atoll.engine.pty import Ptys
from atoll.engine.surroundings import Surroundings
from atoll.launch import Held, LaunchedSandbox
from atoll.model import (
    Execution,
    KilledBy,
    SandboxDied,
    SandboxError,
    SandboxInfo,
    SandboxSpec,
    SandboxState,
    Template,
)

END_GRACE_SECONDS = 0.5


class Sandbox(Observed):
    """A running sandbox, from `Engine.create` or `Sandbox.create`. Leaving its block kills it."""

    def __init__(
        self,
        launched: LaunchedSandbox,
        spec: SandboxSpec,
        around: Surroundings,
        former: FormerLife | None = None,
    ) -> None:
        super().__init__(launched, spec, around.observation)
        self.metadata: dict[str, str] = {}
        self.killed_by: KilledBy | None = None
        """The limit that ended it, if one did."""
        self._around = around
        self._paused = False
        self._configured = False
        self._breaches = Breaches(launched)
        self._ended: SandboxError | None = None
        self._gone = anyio.Event()
        self._env: dict[str, str] = {}
        self._life = Lifetime(
            spec.id,
            spec.limits,
            around.clock,
            around.deadlines,
            cpu_time=self._breaches.cpu_time,
            end=self._time_is_over,
        )
        self._after_end: Callable[[], Awaitable[None]] = anyio.lowlevel.checkpoint
        self.channel = GuestChannel(
            launched.channel, self.id, self._exited, self._broken, former=former is not None
        )
        self.processes = self._make_processes()
        self.interpreters = self._make_interpreters()
        user = spec.template.user
        self.commands = Commands(self.processes, user, around.spawn)
        self.pty = Ptys(self.processes, user)
        self.files = Files(FileWorkers(self.channel, self.id, user, self.require_usable))
        self.network = SandboxNetwork(launched, around.way_out, self._note)
        if former is not None:
            self._take_up(former)

    def _make_processes(self) -> Processes:
        limits = self.spec.limits
        return Processes(
            self.channel,
            self.id,
            output_limit=limits.bytes_of("output"),
            most=limits.max_processes,
            breach=self._breach,
            open_pty=self.launched.open_pty,
            vault=self._around.vault,
            watch=self.watch,
        )

    def _make_interpreters(self) -> Interpreters:
        return Interpreters(
            self.channel,
            self.launched,
            self.spec,
            require_usable=self.require_usable,
            breach=self._breach,
            vault=self._around.vault,
        )

    def _breach(self) -> KilledBy | None:
        return self.killed_by or self._breaches.found()

    @property
    def info(self) -> SandboxInfo:
        """What `Engine.list` shows of it."""
        return SandboxInfo(
            id=self.id,
            template=self.spec.template.name,
            metadata=dict(self.metadata),
            started_at=self._life.started_at,
            expires_at=self._life.expires_at,
            state=self._state,
            launcher=self._around.launcher,
            pid=self.launched.pid,
        )

    @property
    def _state(self) -> SandboxState:
        if self._ended is not None:
            return SandboxState.ENDED
        return SandboxState.PAUSED if self._paused else SandboxState.RUNNING

    def is_running(self) -> bool:
        """True until it is killed or dies; also while it is paused."""
        return self._ended is None

    async def prepare(self) -> None:
        """Have a Python context ready before anybody claims it."""
        self._configure({})
        await self.interpreters.park()

    async def claim(
        self, env: dict[str, str], metadata: dict[str, str], lease: float | None
    ) -> None:
        """Give it to a client: its environment, metadata, limits and deadlines hold from now on."""
        self.metadata, self._env = metadata, env
        if env or not self._configured:
            self._configure(env)
            await self.interpreters.use_environment({**self.spec.env, **env})
        self._life.set_lease(lease)
        self._life.begin()
        self.keep()

    async def run_code(
        self,
        code: str,
        *,
        language: str | None = None,
        context: Context | str | None = None,
        on_stdout: TextCallback | None = None,
        on_stderr: TextCallback | None = None,
        on_result: ResultCallback | None = None,
        on_error: ErrorCallback | None = None,
        env: dict[str, str] | None = None,
        timeout: float | None = 300.0,
    ) -> Execution:
        """Run a cell; variables stay for the next one in the same context.

        An exception in the cell is a result (`Execution.error`), not an error.

        Args:
            code: the cell.
            language: ``python`` if neither it nor `context` is given.
            context: from `create_context`; None: the default context of the language.
            on_stdout, on_stderr, on_result, on_error: told while it runs.
            env: environment variables for this cell alone.
            timeout: seconds until it is interrupted, and if that does not help, killed.

        Raises:
            UnknownLanguage, ContextNotFound, ContextDied, SandboxDied, GuestBroken.
        """
        callbacks = CellCallbacks(on_stdout, on_stderr, on_result, on_error)
        with self.watch.cell(language or "python", callbacks) as calls:
            return await self.interpreters.run(
                code, language=language, context=context, env=env, callbacks=calls, timeout=timeout
            )

    async def create_context(
        self,
        language: str = "python",
        *,
        cwd: str | None = None,
        user: str | None = None,
        env: dict[str, str] | None = None,
        fresh: bool = False,
    ) -> Context:
        """A new context beside the default one; `fresh`: with hash seeds of its own.

        Raises:
            UnknownLanguage, UnknownUser, FileNotFound (cwd), ContextDied.
        """
        self.require_usable()
        return await self.interpreters.create(language, cwd=cwd, user=user, env=env, fresh=fresh)

    async def list_contexts(self) -> list[Context]:
        """All contexts, oldest first."""
        return self.interpreters.list()

    async def restart_context(self, context: Context | str) -> Context:
        """Empty a context of its state. Raises ContextNotFound."""
        return await self.interpreters.restart(context_id(context))

    async def remove_context(self, context: Context | str) -> None:
        """End a context. Raises ContextNotFound."""
        await self.interpreters.remove(context_id(context))

    async def interrupt_context(self, context: Context | str) -> None:
        """Interrupt the running cell of a context; its state stays. Raises ContextNotFound."""
        await self.interpreters.interrupt(context_id(context))

    def set_timeout(self, seconds: float | None) -> None:
        """Renew the lease: without another renewal it is killed after `seconds`. None: no lease."""
        self._life.set_lease(seconds)
        self.log.act("sandbox.lease", f"its lease is {seconds} s from now", seconds=seconds)
        self._note()

    async def connect(self, port: int) -> socket.socket:
        """A non-blocking connection to a server on `port` inside. Raises PortRefused."""
        self.require_usable()
        return await self.launched.connect_inside(check_port(port))

    async def pause(self) -> None:
        """Stop every process of it; memory stays. Raises LimitUnavailable where nothing freezes."""
        self.require_alive()
        if not self._paused:
            self.launched.freeze()
            self._paused = self.channel.paused = True
            self.log.act("sandbox.paused", "paused")
            self._note()

    async def resume(self) -> None:
        """Undo `pause`."""
        self.require_alive()
        if self._paused:
            self.launched.thaw()
            self._paused = self.channel.paused = False
            self.log.act("sandbox.resumed", "resumed")
            self._note()

    async def kill(self, *, grace: float = END_GRACE_SECONDS) -> bool:
        """End it, and remove all that it was; False if it had ended before.

        Args:
            grace: seconds that running commands get between SIGTERM and SIGKILL.
        """
        self.log.act("sandbox.kill", "asked to end")
        killed = await self._kill(grace, "killed")
        await self._after_end()
        return killed

    async def kill_now(self) -> bool:
        """As `kill` without grace, for the engine that is ending."""
        return await self._kill(0, "engine")

    async def _kill(self, grace: float, by: str) -> bool:
        if self._ended is not None:
            await self._gone.wait()
            return False
        try:
            if grace > 0 and self.processes.alive() and not self._paused:
                await self._ask_to_end(grace)
        finally:
            self._end(SandboxDied("the sandbox was killed", sandbox_id=self.id), None, by)
            with anyio.CancelScope(shield=True):
                await self._gone.wait()
        return True

    async def gone(self) -> None:
        """Wait until it has ended and nothing of it is left."""
        await self._gone.wait()

    def require_alive(self) -> None:
        """Raise what ended it, if it has ended."""
        if self._ended is not None:
            raise self._ended

    def _configure(self, env: dict[str, str]) -> None:
        self._configured = True
        configure(self.channel, self.spec, env)

    def require_usable(self) -> None:
        """Raise what ended it, or that it is paused."""
        self.require_alive()
        if self._paused:
            raise SandboxError("it is paused", sandbox_id=self.id, hint="call resume() first")

    async def _ask_to_end(self, grace: float) -> None:
        self.channel.request("shutdown", {"grace": grace})
        with anyio.move_on_after(grace):
            for process in self.processes.alive():
                await process.done.wait()

    @classmethod
    async def create(
        cls, template: str | Template = "code-interpreter", **options: Unpack[CreateOptions]
    ) -> Sandbox:
        """A sandbox with an engine of its own, which ends when the sandbox ends.

        Arguments and errors are those of `Engine.create`.
        """
        from atoll.engine.engine import Engine  # the engine makes sandboxes: it imports this module

        engine = Engine()
        await engine.start()
        try:
            sandbox = await engine.create(template, **options)
        except BaseException:
            await engine.close()
            raise
        sandbox._after_end = engine.close
        engine.end_with(sandbox)
        return sandbox

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        with anyio.CancelScope(shield=True):
            await self.kill(grace=0)

    def _exited(self, pid: int, status: int) -> bool:
        return self.processes.exited(pid, status) or self.interpreters.exited(pid, status)

    def _broken(self, reason: SandboxError) -> None:
        killed_by = self._breaches.found() if isinstance(reason, SandboxDied) else None
        self._end(reason, killed_by, reason.code)

    def _time_is_over(self, why: str, killed_by: KilledBy | None) -> None:
        self._end(SandboxDied(why, sandbox_id=self.id), killed_by, "lease")

    def _note(self) -> None:
        if self._around.vault.active:
            self._around.vault.note(self.id, self._former_life().as_state())

    def keep(self) -> None:
        """Let the vault hold what a later process of this owner needs to adopt it."""
        if self._around.vault.active:
            held = self._held()
            self._around.vault.hold(self.id, self._former_life().as_state(), held.fds)

    def _held(self) -> Held:
        """What another process needs to adopt it; nothing where the launcher knows no adoption."""
        launcher = self._around.adopts
        return launcher.hold(self.launched) if launcher is not None else Held({}, ())

    def _former_life(self) -> FormerLife:
        return FormerLife(
            spec=self.spec,
            launched=self._held().state,
            metadata=self.metadata,
            env=self._env,
            started_at=self._life.started_at,
            expires_at=self._life.expires_at,
            paused=self._paused,
            network=self.network.policy,
        )

    def _take_up(self, former: FormerLife) -> None:
        """Go on with what a former process of this owner had promised."""
        self._configured = True
        self._paused = self.channel.paused = former.paused
        self.metadata, self._env = former.metadata, former.env
        self.interpreters.take_up({**self.spec.env, **former.env})
        self._life.take_up(former.started_at, former.expires_at)

    def _end(self, reason: SandboxError, killed_by: KilledBy | None, by: str) -> None:
        """Everybody who waits goes on at once; what is left is removed in the background."""
        if self._ended is not None:
            return
        self._ended, self.killed_by = reason, killed_by
        self.ended_by = killed_by.value if killed_by is not None else by
        self.log.event("sandbox.ended", f"ended: {reason.message}", reason=self.ended_by)
        self._life.stop()
        self._around.vault.drop(self.id)
        self.channel.close(reason)
        self.processes.close(reason, killed_by)
        self._around.spawn(self._destroy)

    async def _destroy(self) -> None:
        clean = False
        try:
            await self.launched.destroy()
            clean = True
        finally:
            await self.interpreters.close()
            await self.network.close()
            self._around.forget(self, clean)
            self.log.close()
            self._gone.set()
