"""Which sub-ids an account has, and how its engines share them."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator
from pathlib import Path

import pytest

from atoll.launch.linux import identities, sub_ids
from atoll.launch.linux.identities import Identities
from atoll.model import WallUnavailable

COUNT = 6 * 128


@pytest.fixture
def engines(tmp_path: Path) -> Iterator[tuple[Identities, Identities]]:
    """Two engines of one account, with the parts 2 to 5 between them."""
    made = [
        Identities(
            "sub-ids",
            (200000, 300000),
            COUNT,
            128,
            identities._SUB_ROWS,
            sub_ids.open_lock(tmp_path / "state" / "ids"),
            base=1,
        )
        for _ in range(2)
    ]
    yield made[0], made[1]
    for ids in made:
        ids.close()


def test_the_largest_range_of_the_account_is_taken(tmp_path: Path) -> None:
    own, name = os.getuid(), pwd.getpwuid(os.getuid()).pw_name
    path = tmp_path / "subuid"
    path.write_text(
        f"someone:1:99999\n{name}:100000:10\n{own}:200000:4000\n54321:9000:3000\n"
        f"broken\n{name}:x:y\n{name}:1\n\n"
    )
    assert sub_ids.ranges(path) == [(100000, 10), (200000, 4000)]
    assert sub_ids.largest(path) == (200000, 4000)
    assert sub_ids.largest(path, 54321) == (9000, 3000)
    assert sub_ids.largest(path, 54322) == (0, 0)
    assert sub_ids.largest(tmp_path / "missing") == (0, 0)


def test_engines_of_one_account_share_no_part(engines: tuple[Identities, Identities]) -> None:
    one, two = engines
    taken = [one.take(), two.take(), one.take(), two.take()]
    assert sorted(taken) == [2, 3, 4, 5]
    with pytest.raises(WallUnavailable, match="no ids are left"):
        one.take()
    two.give_back(taken[1])
    assert one.take() == taken[1]


def test_the_parts_of_an_engine_that_is_gone_are_free(
    engines: tuple[Identities, Identities],
) -> None:
    one, two = engines
    taken = [one.take(), one.take(), one.take()]
    left = two.take()
    one.close()
    assert sorted([two.take() for _ in range(3)]) == sorted(taken)
    assert left not in taken


def test_where_the_account_is_the_first_id_its_sub_ids_follow(
    engines: tuple[Identities, Identities],
) -> None:
    ids = engines[0]
    assert ids.lines(2) == "0 257 100\n1000 357 1\n65534 358 1\n"
    assert ids.expected(2) == (
        ((0, 200256, 100), (1000, 200356, 1), (65534, 200357, 1)),
        ((0, 300256, 100), (1000, 300356, 1), (65534, 300357, 1)),
    )
    assert (ids.inside(2, 0), ids.inside(2, 1000)) == (257, 357)
    assert ids.ping_groups(2) == (257, 356)


def test_no_environment_leads_an_engine_to_another_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    before = sub_ids.lock_file()
    for name in ("HOME", "XDG_RUNTIME_DIR", "XDG_DATA_HOME", "XDG_STATE_HOME", "ATOLL_DATA_DIR"):
        monkeypatch.setenv(name, "/tmp")
    assert sub_ids.lock_file() == before


def test_a_lock_that_cannot_be_opened_is_a_missing_wall(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(WallUnavailable, match="cannot agree on who uses which sub-ids"):
        sub_ids.open_lock(tmp_path / "link")
    assert not (tmp_path / "elsewhere").exists()
