"""User namespaces are made by a fork that is gone afterwards, and say why they could not be."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from atoll.launch.linux import user_namespaces, walls_probe

OWN_UID = f"0 {os.geteuid()} 1\n"


@pytest.fixture(scope="module", autouse=True)
def _user_namespaces_are_allowed() -> None:
    if reason := walls_probe.run()["user namespace"]:
        pytest.skip(reason)


def map_own_uid(pid: int) -> None:
    user_namespaces.write(f"/proc/{pid}/uid_map", OWN_UID)


def make(
    become: Callable[[], None] = lambda: None,
    map_ids: Callable[[int], None] = map_own_uid,
    limits: dict[str, int] | None = None,
) -> int:
    return user_namespaces.create(become, map_ids, limits or {})


def seen_in(namespace: int, path: str) -> list[str]:
    """The words of a file as a process in this user namespace reads them."""
    words = ["nsenter", f"--user=/proc/self/fd/{namespace}", "--preserve-credentials", "cat", path]
    return subprocess.check_output(words, pass_fds=[namespace], text=True).split()


def test_a_namespace_stays_while_its_maker_has_ended() -> None:
    pids: list[int] = []

    def map_ids(pid: int) -> None:
        pids.append(pid)
        map_own_uid(pid)

    namespace = make(map_ids=map_ids)
    try:
        assert not Path(f"/proc/{pids[0]}").exists()
        assert seen_in(namespace, "/proc/self/uid_map") == OWN_UID.split()
    finally:
        os.close(namespace)


def test_its_limits_stand_and_what_a_kernel_does_not_know_is_passed_over() -> None:
    namespace = make(limits={"max_mnt_namespaces": 3, "max_unheard_of": 1})
    try:
        assert seen_in(namespace, "/proc/sys/user/max_mnt_namespaces") == ["3"]
    finally:
        os.close(namespace)


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def children() -> list[str]:
    tasks = Path("/proc/self/task").iterdir()
    return [pid for task in tasks for pid in (task / "children").read_text().split()]


def refuse(*_: object) -> None:
    raise OSError(28, "no room for it")


@pytest.mark.parametrize(
    "attempt", [lambda: make(become=refuse), lambda: make(map_ids=refuse)], ids=["make", "map"]
)
def test_the_step_that_was_refused_is_told_and_nothing_is_left(
    attempt: Callable[[], int],
) -> None:
    before = open_descriptors(), children()
    with pytest.raises(OSError, match="no room for it"):
        attempt()
    assert (open_descriptors(), children()) == before
