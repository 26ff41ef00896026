"""`sandbox.network`, and the one way out that all sandboxes of an engine share."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio

from atoll.launch import LaunchedSandbox
from atoll.model import (
    AtollError,
    InvalidArgument,
    NetworkPolicy,
    NetworkReport,
)

if TYPE_CHECKING:
    from atoll.egress import Egress

NetworkChoice = NetworkPolicy | Mapping[str, Any] | str | bool | None
"""What callers say of a network; see `NetworkPolicy.of`."""

_NOTHING = NetworkPolicy(allow_internet_access=False)

_log = logging.getLogger(__name__)


class SandboxNetwork:
    """What one sandbox may reach, and what it has. Until it is opened it has its loopback only."""

    def __init__(
        self,
        launched: LaunchedSandbox,
        way_out: WayOut,
        changed: Callable[[], None],
    ) -> None:
        self._launched = launched
        self._way_out = way_out
        self._changed = changed
        self._changing = anyio.Lock()
        self._last = NetworkReport()
        self._over = False
        self.policy: NetworkPolicy | None = None
        """None: it has its loopback only."""

    async def open(self, policy: NetworkPolicy) -> None:
        """Let connections out as `policy` says.

        Raises:
            NetworkUnavailable: it cannot be enforced here. SandboxDied.
        """
        async with self._changing:
            await self._open(policy)

    async def _open(self, policy: NetworkPolicy) -> None:
        await self._way_out.add(self._launched, policy)
        self.policy = policy
        if self._over:
            await self._way_out.remove(self._launched.id)

    async def update(self, network: NetworkChoice) -> int:
        """Have another policy from now on; how many connections it has cut.

        Args:
            network: as for `Engine.create`. None: nothing may be reached any more.

        Raises:
            InvalidArgument: it is no policy. NetworkUnavailable, SandboxDied.
        """
        policy = NetworkPolicy.of(network)
        async with self._changing:
            if self.policy is None:
                if policy is not None:
                    await self._open(policy)
                    self._changed()
                return 0
            cut = await self._way_out.update(self._launched, policy or _NOTHING)
            self.policy = policy or _NOTHING
            self._changed()
            return cut

    async def report(self) -> NetworkReport:
        """What it has done with its network so far. Raises NetworkUnavailable."""
        if self.policy is not None and not self._over:
            self._last = await self._way_out.report(self._launched.id)
        return self._last

    async def close(self) -> None:
        """Its end: what is open is cut; the last report stays."""
        self._over = True
        if self.policy is not None:
            self._last = await self._way_out.remove(self._launched.id) or self._last


class WayOut:
    """The engine's proxy process, started with the first sandbox that has a network.

    A proxy that has ended is followed by another, with the next call; in between nothing leaves.
    """

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._egress: Egress | None = None
        self._starting = anyio.Lock()
        self._served: dict[str, _Served] = {}

    async def add(self, launched: LaunchedSandbox, policy: NetworkPolicy) -> None:
        """Serve a sandbox from now on. Raises NetworkUnavailable, SandboxDied."""
        await self._serve(await self._running(), launched, policy)

    async def update(self, launched: LaunchedSandbox, policy: NetworkPolicy) -> int:
        """Another policy for one that is served; how many connections that cut."""
        cut = await (await self._running()).update(launched.id, policy)
        if launched.id in self._served:
            self._served[launched.id] = replace(self._served[launched.id], policy=policy)
        return cut

    async def report(self, sandbox_id: str) -> NetworkReport:
        """What a sandbox has done so far."""
        return await (await self._running()).report(sandbox_id)

    async def remove(self, sandbox_id: str) -> NetworkReport | None:
        """Serve it no more; its last report, if the proxy still has one."""
        if self._served.pop(sandbox_id, None) is None or self._egress is None:
            return None
        return await self._egress.remove(sandbox_id)

    async def close(self) -> None:
        """End the proxy, and with it every connection."""
        self._served.clear()
        if self._egress is not None:
            await self._egress.close()
            self._egress = None

    async def _running(self) -> Egress:
        async with self._starting:
            if self._egress is not None and self._egress.alive:
                return self._egress
            if self._egress is not None:
                _log.warning("the egress proxy has ended; another one is started")
                await self._egress.close()
                self._egress = None
            # Only now: engines whose sandboxes have no network need none of it.
            from atoll.egress import Egress

            egress = Egress(self._data_dir)
            await egress.start()
            for served in list(self._served.values()):
                try:
                    await self._serve(egress, served.launched, served.policy)
                except AtollError as error:
                    _log.warning("%s has no network any more: %s", served.launched.id, error)
            self._egress = egress
            return egress

    async def _serve(
        self, egress: Egress, launched: LaunchedSandbox, policy: NetworkPolicy
    ) -> None:
        listeners = await launched.open_listeners()
        try:
            await egress.add(launched.id, listeners, policy, listeners.addresses)
        finally:
            for fd in (listeners.tcp, listeners.dns_udp, listeners.dns_tcp):
                os.close(fd)
        self._served[launched.id] = _Served(launched, policy)


@dataclass(frozen=True)
class _Served:
    launched: LaunchedSandbox
    policy: NetworkPolicy


def check_port(port: int) -> int:
    """A port as `connect` takes it. Raises InvalidArgument."""
    if isinstance(port, bool) or not isinstance(port, int) or not 0 < port < 1 << 16:
        raise InvalidArgument(f"a port is a number from 1 to 65535, not {port!r}")
    return port
