"""Sandboxes forked before anybody asks, so that a create is a hand-over."""

from __future__ import annotations

import logging
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable

import anyio

from atoll.engine.commands import Spawn
from atoll.engine.sandbox import Sandbox
from atoll.model import AtollError, Limits, Template

_PAUSE_SECONDS = 0.02
_KINDS = 4  # kept at once; the one unused for longest makes room

_log = logging.getLogger(__name__)


class Pool:
    """Keeps `size` spare sandboxes of each kind (template, limits) that was asked for lately.

    Args:
        size: spares of each kind; 0 keeps none.
        launch: makes one.
        spawn: runs the refilling.
    """

    def __init__(
        self, size: int, launch: Callable[[Template, Limits], Awaitable[Sandbox]], spawn: Spawn
    ) -> None:
        self._size = size
        self._launch = launch
        self._spawn = spawn
        self._kinds: OrderedDict[tuple[str, Limits], _Kind] = OrderedDict()
        self._closed = False

    def take(self, template: Template, limits: Limits) -> Sandbox | None:
        """A spare, if there is one now; never waits. Its place is filled in the background."""
        if self._size == 0:
            return None
        kind = self._kind(template, limits)
        found = None
        while kind.spares and found is None:
            spare = kind.spares.popleft()
            found = spare if spare.is_running() else None
        self._refill(kind)
        return found

    async def fill(self, template: Template, limits: Limits) -> None:
        """Launch until this kind has all its spares. Raises what a launch raises."""
        kind = self._kind(template, limits)
        while len(kind.spares) + kind.launching < self._size and not self._closed:
            await self._add(kind)

    def close(self) -> None:
        """Launch no more; the spares are ended by the engine, which knows every sandbox."""
        self._closed = True
        self._kinds.clear()

    def _kind(self, template: Template, limits: Limits) -> _Kind:
        key = (template.name, limits)
        kind = self._kinds.get(key)
        if kind is None or kind.template != template:
            kind = self._kinds[key] = _Kind(template, limits)
        self._kinds.move_to_end(key)
        while len(self._kinds) > _KINDS:
            self._drop(self._kinds.popitem(last=False)[1])
        return kind

    def _drop(self, kind: _Kind) -> None:
        kind.dropped = True
        while kind.spares:
            self._spawn(kind.spares.popleft().kill_now)

    def _refill(self, kind: _Kind) -> None:
        if not kind.refilling:
            kind.refilling = True
            self._spawn(self._work, kind)

    async def _work(self, kind: _Kind) -> None:
        try:
            # Whoever has just taken one is about to use it: its first command goes first.
            await anyio.sleep(_PAUSE_SECONDS)
            while len(kind.spares) < self._size and not self._closed and not kind.dropped:
                await self._add(kind)
        except AtollError as error:
            # The next create meets the same error and gives it to somebody who can act.
            if not self._closed:
                _log.warning("no spare sandbox of template %s: %s", kind.template.name, error)
        finally:
            kind.refilling = False

    async def _add(self, kind: _Kind) -> None:
        kind.launching += 1
        try:
            spare = await self._launch(kind.template, kind.limits)
        finally:
            kind.launching -= 1
        kind.spares.append(spare)
        if kind.dropped:
            self._drop(kind)


class _Kind:
    def __init__(self, template: Template, limits: Limits) -> None:
        self.template = template
        self.limits = limits
        self.spares: deque[Sandbox] = deque()
        self.launching = 0
        self.refilling = False
        self.dropped = False
