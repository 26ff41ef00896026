"""The contexts of one sandbox: made, listed, restarted, interrupted, removed, and given cells."""

from __future__ import annotations

import os
import secrets
import signal
import socket
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, replace
from typing import Any

import anyio

from atoll.engine.cell import CellCallbacks
from atoll.engine.channel import GuestChannel, Reply
from atoll.engine.commands import check_environment
from atoll.engine.context_record import Context, RunningContext
from atoll.engine.contexts import ContextClient, ContextEnded
from atoll.engine.languages import language_named
from atoll.engine.pipes import make_pipe
from atoll.engine.vault import Vault
from atoll.launch import ContextPorts, ContextProcess, LaunchedSandbox
from atoll.model import (
    AtollError,
    ContextDied,
    ContextNotFound,
    Execution,
    ExecutionError,
    GuestBroken,
    InvalidArgument,
    KilledBy,
    NotFound,
    SandboxSpec,
    UnknownLanguage,
)

READY_SECONDS = 60.0

_NODE_LANGUAGES = ("javascript", "typescript")


class Interpreters:
    """Contexts of one sandbox. The default one of each language is made when it is first used.

    Args:
        channel: to the guest.
        launched: can fork Python contexts from a warmed interpreter.
        spec: template and limits.
        require_usable: raises if the sandbox has ended or is paused.
        breach: which limit the kernel has just enforced, or has ended the sandbox.
        vault: keeps their descriptors for a later process of the same owner.
    """

    def __init__(
        self,
        channel: GuestChannel,
        launched: LaunchedSandbox,
        spec: SandboxSpec,
        *,
        require_usable: Callable[[], None],
        breach: Callable[[], KilledBy | None],
        vault: Vault,
    ) -> None:
        self._env: dict[str, str] = {}
        self._channel = channel
        self._launched = launched
        self._spec = spec
        self._require_usable = require_usable
        self._breach = breach
        self._vault = vault
        self._contexts: dict[str, RunningContext] = {}
        self._defaults: dict[str, str] = {}
        self._children: dict[int, RunningContext] = {}

    async def park(self) -> None:
        """Have the default Python context ready before anybody asks, if the template has one."""
        if self._spec.template.python is None:
            return
        client = await self._client(self._chosen("python", None))
        await client.ready(READY_SECONDS)

    def children(self) -> set[int]:
        """Pids of contexts that the guest has started."""
        return set(self._children)

    def take_up(self, env: dict[str, str]) -> None:
        """Environment of all contexts of a sandbox that another process has made."""
        self._env = env

    def take_up_context(self, state: dict[str, Any], fds: list[int]) -> None:
        """Go on with a context that a former process of this owner started."""
        context = Context(**state["context"])
        running = self._contexts[context.id] = RunningContext(context, state["mark"])
        if state["default"]:
            self._defaults[context.language] = context.id
        if state["child"] is not None:
            self._children[state["child"]] = running
            running.child = state["child"]
        client = self._client_over(running, socket.socket(fileno=fds[0]), fds[1:])
        client.pid = state["pid"]
        running.client = client
        # Nobody knows how far its cell has come, or what of it is still in its pipes.
        client.must_kill = state["busy"] or state["pid"] is None
        self._vault.hold(self._key(running), self._state(running), fds)

    async def use_environment(self, env: dict[str, str]) -> None:
        """Environment of all contexts from now on, beside their own; a parked one is let go."""
        self._env = env
        if env:
            for running in list(self._contexts.values()):
                await self.remove(running.context.id)

    async def create(
        self,
        language: str = "python",
        *,
        cwd: str | None = None,
        user: str | None = None,
        env: dict[str, str] | None = None,
        fresh: bool = False,
    ) -> Context:
        """A new context; returns when it takes cells.

        Raises:
            UnknownLanguage: no such language, or the template has no interpreter for it.
            UnknownUser, FileNotFound (cwd), ContextDied.
        """
        running = self._new(language_named(language), cwd, user, env, fresh)
        try:
            client = await self._client(running)
            await client.ready(READY_SECONDS)
        except BaseException:
            await self._end(running)
            self._contexts.pop(running.context.id, None)
            raise
        return running.context

    def list(self) -> list[Context]:
        """All contexts, oldest first."""
        return [running.context for running in self._contexts.values()]

    async def remove(self, id: str) -> None:
        """End a context; its state is lost. Raises ContextNotFound."""
        running = self._find(id)
        del self._contexts[id]
        self._forget_default(id)
        await self._end(running)

    async def restart(self, id: str) -> Context:
        """The same context, empty again. Raises ContextNotFound."""
        running = self._find(id)
        await self._end(running)
        running.died = False
        client = await self._client(running)
        await client.ready(READY_SECONDS)
        return running.context

    async def interrupt(self, id: str) -> None:
        """Interrupt the running cell, if there is one; state stays. Raises ContextNotFound."""
        client = self._find(id).client
        if client is not None:
            await client.interrupt()

    async def run(
        self,
        code: str,
        *,
        language: str | None,
        context: Context | str | None,
        env: dict[str, str] | None,
        callbacks: CellCallbacks,
        timeout: float | None,
    ) -> Execution:
        """Run a cell in `context`, or in the default context of `language`."""
        self._require_usable()
        running = self._chosen(language, context)
        client = await self._client(running)
        self._count(running, 1)
        try:
            execution = await client.run(code, callbacks=callbacks, env=env, timeout=timeout)
            if execution.error is not None and execution.killed_by is None:
                return replace(execution, killed_by=self._breach())
            return execution
        except ContextEnded as ended:
            return self._killed(ended)
        except GuestBroken as error:
            self._channel.fail(error)
            raise
        finally:
            self._count(running, -1)
            if not client.alive:
                running.died = True
                await self._end(running)
                if self._defaults.get(running.context.language) == running.context.id:
                    self._contexts.pop(running.context.id, None)
                    self._forget_default(running.context.id)

    def exited(self, pid: int, status: int) -> bool:
        """The guest reports an exit; False if `pid` is no context."""
        running = self._children.pop(pid, None)
        if running is None:
            return False
        running.child = None
        return True

    async def close(self) -> None:
        """The sandbox is gone: give back the host's descriptors."""
        contexts, self._contexts = self._contexts, {}
        for running in contexts.values():
            if running.client is not None:
                await running.client.close()

    def _new(
        self,
        language: str,
        cwd: str | None,
        user: str | None,
        env: dict[str, str] | None,
        fresh: bool,
    ) -> RunningContext:
        template = self._spec.template
        if language != "bash" and self._runtime(language) is None:
            raise UnknownLanguage(
                f"template {template.name} has no interpreter for {language}",
                sandbox_id=self._spec.id,
            )
        context = Context(
            id=secrets.token_hex(8),
            language=language,
            cwd=cwd or template.cwd,
            user=user or template.user,
            env=check_environment(env),
            fresh=fresh,
        )
        running = self._contexts[context.id] = RunningContext(context)
        return running

    def _runtime(self, language: str) -> str | None:
        template = self._spec.template
        return template.node if language in _NODE_LANGUAGES else template.python

    def _find(self, id: str) -> RunningContext:
        running = self._contexts.get(id)
        if running is None:
            raise ContextNotFound(f"there is no context {id!r}", sandbox_id=self._spec.id)
        return running

    def _chosen(self, language: str | None, context: Context | str | None) -> RunningContext:
        if context is not None:
            running = self._find(context.id if isinstance(context, Context) else context)
            if language is not None and language_named(language) != running.context.language:
                known = running.context.language
                raise InvalidArgument(f"the context speaks {known}, not {language}")
            return running
        named = language_named(language or "python")
        if named not in self._defaults:
            self._defaults[named] = self._new(named, None, None, None, False).context.id
        return self._contexts[self._defaults[named]]

    async def _client(self, running: RunningContext) -> ContextClient:
        """The way to its process, which is started if there is none."""
        if running.client is None and not running.died:
            async with running.starting:
                if running.client is None:
                    running.client = await self._start(running)
        if running.client is None or not running.client.alive:
            raise ContextDied(
                f"context {running.context.id} has ended",
                sandbox_id=self._spec.id,
                hint="restart it or make another",
            )
        return running.client

    async def _start(self, running: RunningContext) -> ContextClient:
        with ExitStack() as ours, ExitStack() as theirs:
            control, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
            ours.callback(control.close)
            theirs.callback(far.close)
            reads, writes = [], []
            for _ in ("stdout", "stderr"):
                read, write = make_pipe()
                ours.callback(os.close, read)
                theirs.callback(os.close, write)
                reads.append(read)
                writes.append(write)
            ports = ContextPorts(far.fileno(), writes[0], writes[1])
            if not await self._fork(running, ports):
                await self._execute(running, ports)
            ours.pop_all()
        if self._vault.active:
            fds = [control.fileno(), *reads]
            self._vault.hold(self._key(running), self._state(running), fds)
        return self._client_over(running, control, reads)

    def _client_over(
        self, running: RunningContext, control: socket.socket, reads: Sequence[int]
    ) -> ContextClient:
        return ContextClient(
            control,
            reads[0],
            reads[1],
            interrupt=lambda: self._interrupt(running),
            output_limit=self._spec.limits.bytes_of("output"),
        )

    def _key(self, running: RunningContext) -> str:
        return f"{self._spec.id}:c{running.context.id}"

    def _state(self, running: RunningContext) -> dict[str, Any]:
        """What a later process of this owner is told; one with a cell in it is lost to that."""
        return {
            "context": asdict(running.context),
            "mark": running.mark,
            "child": running.child,
            "pid": running.client.pid if running.client else None,
            "busy": running.cells > 0,
            "default": running.context.id in self._defaults.values(),
        }

    def _count(self, running: RunningContext, cells: int) -> None:
        running.cells += cells
        if self._vault.active and running.client is not None:
            self._vault.note(self._key(running), self._state(running))

    async def _fork(self, running: RunningContext, ports: ContextPorts) -> bool:
        context = running.context
        if context.language != "python" or context.fresh:
            return False
        home = "/root" if context.user == "root" else f"/home/{context.user}"
        identity = {"HOME": home, "USER": context.user, "LOGNAME": context.user}
        env = {**self._spec.template.env, **self._env, **identity, **context.env}
        process = ContextProcess(context.user, context.cwd, env, running.mark)
        return await self._launched.fork_context(ports, process)

    async def _execute(self, running: RunningContext, ports: ContextPorts) -> None:
        """Start it by exec in the guest."""
        context = running.context
        params = {
            "language": context.language,
            "runtime": None if context.language == "bash" else self._runtime(context.language),
            "user": context.user,
            "cwd": context.cwd,
            "env": context.env,
            "fds": {"1": 0, "2": 1, "3": 2},
            "mark": running.mark,
        }

        def started(ok: Reply) -> None:
            pid = ok.get("pid")
            if type(pid) is not int or not 0 < pid < 1 << 31 or pid in self._children:
                raise GuestBroken("the guest named an impossible pid", sandbox_id=self._spec.id)
            self._children[pid] = running
            running.child = pid

        # The request owns what it hands in; these are the caller's.
        fds = [os.dup(fd) for fd in (ports.stdout, ports.stderr, ports.control)]
        await self._channel.request("context", params, fds, on_ok=started)

    async def _interrupt(self, running: RunningContext) -> None:
        pid = running.child
        if pid is None and running.client is not None:
            pid = running.client.pid
        if pid is None:
            return
        params = {"pid": pid, "signal": int(signal.SIGINT), "group": True, "foreign": True}
        with suppress(NotFound):
            await self._channel.request("signal", params)

    async def _end(self, running: RunningContext) -> None:
        """End its process, if there is one, and all that it has started."""
        client = running.client
        self._vault.drop(self._key(running))
        with anyio.CancelScope(shield=True):
            # Its sandbox may be gone, and the process with it.
            with suppress(AtollError):
                await self._channel.request(
                    "end", {"pid": running.child or 0, "mark": running.mark}
                )
            running.client = None
            if client is not None:
                await client.close()

    def _forget_default(self, id: str) -> None:
        for language, known in list(self._defaults.items()):
            if known == id:
                del self._defaults[language]

    def _killed(self, ended: ContextEnded) -> Execution:
        """What a cell has done until a limit ended it. Raises if it was no limit."""
        killed_by = self._breach()
        if killed_by is None:
            self._require_usable()
            raise ended
        text = f"the sandbox reached its limit: {killed_by.value}"
        error = ExecutionError("LimitReached", text, f"LimitReached: {text}")
        return replace(ended.execution, killed_by=killed_by, error=error)
