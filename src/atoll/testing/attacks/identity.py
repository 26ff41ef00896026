"""Attacks that try to be more than the code is."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

from atoll.testing.attacks.arena import Arena, processes_below
from atoll.testing.attacks.attempts import inside
from atoll.testing.attacks.model import Attack, Verdict, all_of
from atoll.testing.attacks.probes import identity, processes

SECTION = "identity"


async def _host_ids(arena: Arena) -> Verdict:
    """As the host sees them: ids of no account, and not those of the neighbour."""
    parts = []
    seen: dict[str, set[int]] = {}
    for name, sandbox in (("attacker", arena.sandbox), ("neighbour", arena.neighbour.sandbox)):
        seen[name] = set()
        for pid in processes_below(sandbox.info.pid):
            seen[name] |= _uids(pid)
    if os.getuid() != 0:
        # An ordinary user's sandboxes can only map that user: there the namespaces are the wall.
        alone = {uid for uids in seen.values() for uid in uids}
        held = 0 not in alone
        return Verdict(held, f"host uids {sorted(alone)}, rootless", "seen from the host")
    for name, uids in seen.items():
        accounts = sorted(uid for uid in uids if _is_account(uid))
        text = f"uids {sorted(uids)}, of accounts: {accounts}"
        parts.append((name, bool(uids) and not accounts, text))
    shared = seen["attacker"] & seen["neighbour"]
    parts.append(("both", not shared, f"shared uids {sorted(shared)}"))
    return all_of(parts)


def _uids(pid: int) -> set[int]:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return set()
    lines = [line.split()[1:] for line in status.splitlines() if line.startswith(("Uid:", "Gid:"))]
    return {int(number) for line in lines for number in line}


def _is_account(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


ATTACKS: tuple[Attack, ...] = (
    inside(
        SECTION,
        "walls-on-self",
        "Is a filter, no_new_privs or a dropped capability missing on a process?",
        identity.walls_on_self,
        context=True,
    ),
    inside(
        SECTION,
        "capabilities",
        "Can code gain a capability by asking for it?",
        identity.take_capabilities,
        context=True,
    ),
    inside(
        SECTION,
        "ids",
        "Can code become another user than the sandbox has?",
        identity.become_another,
        context=True,
    ),
    inside(
        SECTION,
        "setuid-files",
        "Do setuid programs or file capabilities give code anything?",
        identity.gain_by_file,
    ),
    inside(
        SECTION,
        "drop-filter",
        "Can code take its filter or no_new_privs off again?",
        identity.drop_the_filter,
        context=True,
    ),
    inside(
        SECTION,
        "disguised-exec",
        "Does a program started through the loader, a memfd or /proc lose the filter?",
        processes.leave_by_exec,
    ),
    inside(
        SECTION,
        "raise-limits",
        "Can code raise its limits or its priority?",
        identity.raise_limits,
    ),
    Attack("host-ids", "Does code run under the id of an account of the host?", SECTION, _host_ids),
)
