"""Prepared slots of one shard: a few spares of the kind that was asked for last."""

from __future__ import annotations

import asyncio
import functools
import os
from collections import deque
from dataclasses import dataclass, field, replace
from typing import Any

from atoll.launch.linux.identities import USER, Identities
from atoll.model import Limits, Mount, SandboxSpec, WallUnavailable
from atoll.wire.packet_port import PacketPort, PortClosed, Reply

SPARE_SLOTS = 4
_LOW = 2
_QUIET_SECONDS = 0.025
_TERMINAL_GROUP = 5
_UNLIMITED_DISK = 1 << 40
_SHM = 256 << 20


@dataclass(frozen=True)
class SlotShape:
    """What a slot's mounts depend on.

    Attributes:
        disk, inodes: size of the writable layer.
        shm: size of /dev/shm.
        processes: ceiling of processes held by the user namespace; 0 where a cgroup holds it.
        mounts: host paths to show.
    """

    disk: int
    inodes: int
    shm: int
    processes: int = 0
    mounts: tuple[Mount, ...] = ()

    @classmethod
    def of(cls, spec: SandboxSpec, held: frozenset[str]) -> SlotShape:
        """What `spec` asks for where cgroups hold the limits `held`."""
        disk = spec.limits.bytes_of("disk") or _UNLIMITED_DISK
        processes = 0 if "pids" in held else spec.limits.pids or 0
        return cls(disk, max(4096, disk >> 13), _SHM, processes, spec.mounts)

    def left_to_cgroups(self, limits: Limits) -> Limits:
        """Those of `limits` that the slot itself does not hold."""
        return replace(limits, pids=None) if self.processes else limits


@dataclass
class Slot:
    """A prepared set of namespaces; its descriptors belong to whoever holds it."""

    part: int
    fds: list[int] = field(default_factory=list)

    def close(self) -> None:
        """Let the namespaces go."""
        for fd in self.fds:
            os.close(fd)
        self.fds = []


class SlotStore:
    """Hands out slots that the builder prepares ahead of need."""

    def __init__(self, builder: PacketPort, identities: Identities) -> None:
        self._builder = builder
        self._identities = identities
        self._spare: deque[asyncio.Future[Slot]] = deque()
        self._shape: SlotShape | None = None
        self._refilling: asyncio.TimerHandle | None = None

    async def take(self, shape: SlotShape) -> Slot:
        """A slot of this shape, from the spares if there is one.

        Raises:
            WallUnavailable: the kernel refused a part of it, or no ids are left.
            PortClosed: the builder is gone.
        """
        if shape != self._shape:
            self.drop_spares()
        asked = self._spare.popleft() if self._spare else self._order(shape, self._take_part())
        try:
            slot = await asyncio.shield(asked)
        except asyncio.CancelledError:
            asked.add_done_callback(self._discard)
            raise
        except PortClosed:
            raise
        except OSError as error:
            raise WallUnavailable(f"a sandbox's root could not be built: {error}") from error
        if not shape.mounts:
            self._shape = shape
            self._refill_soon(shape)
        return slot

    async def build(self, part: int, shape: SlotShape) -> Slot:
        """A slot for a part that the caller has already."""
        return await self._order(shape, part)

    def give_back(self, part: int) -> None:
        """Free the ids of a slot that has no process left."""
        self._identities.give_back(part)

    def drop_spares(self) -> None:
        """Let every spare go."""
        self._shape = None
        self._put_off_refill()
        while self._spare:
            self._spare.popleft().add_done_callback(self._discard)

    def _take_part(self) -> int:
        return self._identities.take()

    def _refill_soon(self, shape: SlotShape) -> None:
        """Now if few are left; else when nobody has taken one for a moment.

        Building takes locks of the kernel that the create which has just begun needs as well.
        """
        self._put_off_refill()
        if len(self._spare) < _LOW:
            self._refill(shape)
        else:
            loop = asyncio.get_running_loop()
            self._refilling = loop.call_later(_QUIET_SECONDS, self._refill, shape)

    def _put_off_refill(self) -> None:
        if self._refilling is not None:
            self._refilling.cancel()
            self._refilling = None

    def _refill(self, shape: SlotShape) -> None:
        while len(self._spare) < SPARE_SLOTS and not self._identities.exhausted:
            self._spare.append(self._order(shape, self._take_part()))

    def _order(self, shape: SlotShape, part: int) -> asyncio.Future[Slot]:
        future: asyncio.Future[Slot] = asyncio.get_running_loop().create_future()
        reply = self._builder.request(self._request(shape, part))
        reply.add_done_callback(functools.partial(self._built, future, part))
        return future

    def _request(self, shape: SlotShape, part: int) -> dict[str, Any]:
        ids = self._identities
        return {
            "part": part,
            "lines": ids.lines(part),
            "root": ids.inside(part, 0),
            "user": ids.inside(part, USER),
            "tty": ids.inside(part, _TERMINAL_GROUP),
            "ping_groups": ids.ping_groups(part),
            "disk": shape.disk,
            "inodes": shape.inodes,
            "shm": shape.shm,
            "processes": shape.processes,
            "mounts": [[str(m.source), m.target, m.read_only] for m in shape.mounts],
        }

    def _built(self, to: asyncio.Future[Slot], part: int, done: asyncio.Future[Reply]) -> None:
        error = done.exception()
        if error is None:
            to.set_result(Slot(part, done.result()[1]))
            return
        self._identities.give_back(part)
        to.set_exception(error)
        to.exception()  # seen: a spare that nobody takes must not warn

    def _discard(self, done: asyncio.Future[Slot]) -> None:
        if not done.cancelled() and done.exception() is None:
            slot = done.result()
            slot.close()
            self.give_back(slot.part)
