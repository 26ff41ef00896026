"""Attacks through namespaces and cgroups."""

from __future__ import annotations

from atoll.testing.attacks.attempts import inside
from atoll.testing.attacks.model import Attack
from atoll.testing.attacks.probes import files, namespaces

SECTION = "namespaces"

ATTACKS: tuple[Attack, ...] = (
    inside(
        SECTION,
        "shared-namespaces",
        "Does code share a namespace with the host or with a neighbour?",
        namespaces.share_with_others,
        context=True,
    ),
    inside(
        SECTION,
        "cgroup-writes",
        "Can code write a control file of any cgroup?",
        namespaces.write_cgroups,
    ),
    inside(
        SECTION,
        "release-agent",
        "Can code have the host's kernel start a program (cgroup v1 release_agent)?",
        namespaces.release_agent,
    ),
    inside(
        SECTION,
        "cgroup-view",
        "Does code see where it stands in the host's cgroups?",
        namespaces.own_cgroup_view,
        context=True,
    ),
    inside(SECTION, "id-maps", "Can code change its id maps?", namespaces.change_maps),
    inside(
        SECTION,
        "leave-chroot",
        "Can code climb out of its root by chroot and fchdir?",
        files.leave_chroot,
    ),
)
