"""Which ids a shard has, and that no two sandboxes share one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.launch.linux import identities, idranges
from atoll.launch.linux.identities import Identities
from atoll.model import WallUnavailable

ROOT = Identities(
    "root", (idranges.FIRST_ID,) * 2, 1 << 24, idranges.STRIDE, identities._ROOT_ROWS, -1
)


def sub_ids(tmp_path: Path, text: str) -> tuple[Path, Path]:
    path = tmp_path / "subuid"
    path.write_text(text)
    return path, path


@given(st.integers(0, 1023), st.integers(0, 1023))
def test_no_two_parts_of_a_block_share_a_host_id(one: int, other: int) -> None:
    def host_ids(part: int) -> set[range]:
        return {range(host, host + count) for _, host, count in ROOT.expected(part)[0]}

    if one != other:
        for mine in host_ids(one):
            for theirs in host_ids(other):
                assert mine.stop <= theirs.start or theirs.stop <= mine.start


@given(st.integers(2, 1023), st.sampled_from([0, 5, 1000, 16367, 65520, 65534]))
def test_an_id_inside_is_the_one_that_its_map_says(part: int, inside: int) -> None:
    (row,) = (r for r in ROOT.expected(part)[0] if r[0] <= inside < r[0] + r[2])
    assert ROOT.inside(part, inside) + ROOT.host[0] == row[1] + inside - row[0]


def test_a_part_is_taken_once_until_it_is_given_back() -> None:
    small = Identities(
        "root", (0, 0), 4 * idranges.STRIDE, idranges.STRIDE, identities._ROOT_ROWS, -1
    )
    taken = {small.take(), small.take()}
    assert taken == {2, 3}
    assert small.exhausted
    with pytest.raises(WallUnavailable, match="no ids are left"):
        small.take()
    small.give_back(3)
    assert small.take() == 3


@pytest.mark.skipif(os.geteuid() == 0, reason="root has ids without sub-ids")
def test_an_account_without_sub_ids_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WallUnavailable, match="no sub-ids"):
        identities.plan(subid_files=sub_ids(tmp_path, "someone:100000:65536\n"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root has ids without sub-ids")
def test_an_account_gives_away_as_many_ids_as_it_has_of_both_kinds(tmp_path: Path) -> None:
    uids, gids = tmp_path / "subuid", tmp_path / "subgid"
    uids.write_text(f"{os.getuid()}:200000:65536\n")
    gids.write_text(f"{os.getuid()}:300000:8192\n")
    for with_account in (False, True):
        ids = identities.plan(
            with_account=with_account, subid_files=(uids, gids), lock_file=tmp_path / "lock"
        )
        assert (ids.host, ids.count, ids.base) == ((200000, 300000), 8192, int(with_account))
        ids.close()


def test_a_held_block_is_not_given_twice_and_is_free_after_it_is_closed(tmp_path: Path) -> None:
    lock = tmp_path / "ids"
    first, second = idranges.acquire(lock), idranges.acquire(lock)
    assert first.first + first.count <= second.first
    first.close()
    again = idranges.acquire(lock)
    assert again.first == first.first
    for block in (second, again):
        block.close()


def test_blocks_of_different_sizes_do_not_overlap(tmp_path: Path) -> None:
    lock = tmp_path / "ids"
    large, small = idranges.acquire(lock, 1024), idranges.acquire(lock, 64)
    assert large.first + large.count <= small.first
    for block in (large, small):
        block.close()
