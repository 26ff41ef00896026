"""Takes over what a former process of a named owner left alive in the vault."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from atoll.engine.former_life import FormerLife
from atoll.engine.sandbox import Sandbox
from atoll.engine.surroundings import Surroundings
from atoll.engine.vault import Entry, close_entries
from atoll.launch import Adopts, Held
from atoll.model import AtollError, GuestBroken, NetworkPolicy, SandboxState

_log = logging.getLogger(__name__)


async def adopt(
    entries: Sequence[Entry], launcher: Adopts, around: Surroundings
) -> dict[str, Sandbox]:
    """The sandboxes among `entries`, by id, with their commands and contexts.

    What cannot be adopted is logged, and left for the owner to remove.
    """
    adopted: dict[str, Sandbox] = {}
    for entry in entries:
        id, _, part = entry.key.partition(":")
        try:
            if not part:
                adopted[id] = await _adopt_sandbox(entry, launcher, around)
            elif id not in adopted:
                close_entries([entry])
            elif part.startswith("p"):
                adopted[id].processes.take_up(entry.state, entry.fds)
            else:
                adopted[id].interpreters.take_up_context(entry.state, entry.fds)
        except (AtollError, OSError) as error:
            _log.warning("%s was not adopted: %s", entry.key, error)
    alive = {id: sandbox for id, sandbox in adopted.items() if sandbox.is_running()}
    for sandbox in alive.values():
        around.spawn(_end_strangers, sandbox)
    return alive


async def _adopt_sandbox(entry: Entry, launcher: Adopts, around: Surroundings) -> Sandbox:
    former = FormerLife.of_state(entry.state)
    launched = await launcher.adopt(former.spec, Held(former.launched, tuple(entry.fds)))
    sandbox = Sandbox(launched, former.spec, around, former)
    if former.network is not None:
        await _reopen(sandbox, former.network)
    sandbox.keep()
    return sandbox


async def _reopen(sandbox: Sandbox, policy: NetworkPolicy) -> None:
    try:
        await sandbox.network.open(policy)
    except AtollError as error:
        # What it runs goes on: it reaches less than before, and no more.
        _log.warning("%s was adopted without its network: %s", sandbox.id, error)


async def _end_strangers(sandbox: Sandbox) -> None:
    """End what the guest runs and nobody knows: its start was asked for, and never acknowledged.

    Raises:
        GuestBroken: the guest's list is none.
    """
    if sandbox.info.state is not SandboxState.RUNNING:
        return
    known = {process.pid for process in sandbox.processes.alive()}
    known |= sandbox.interpreters.children()
    listed = (await sandbox.channel.request("processes", {})).get("processes")
    if not isinstance(listed, list):
        raise GuestBroken("the guest listed no processes", sandbox_id=sandbox.id)
    for item in listed:
        pid = item.get("pid") if isinstance(item, dict) else None
        if type(pid) is int and pid not in known:
            sandbox.channel.request("end", {"pid": pid})
