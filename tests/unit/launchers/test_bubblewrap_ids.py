"""Which ids sandboxes get, and that no two have the same."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from atoll.launch.bubblewrap_ids import plan, sub_range
from atoll.launch.linux import idranges
from atoll.model import WallUnavailable


@pytest.fixture
def subids(tmp_path: Path) -> tuple[Path, Path]:
    files = (tmp_path / "subuid", tmp_path / "subgid")
    for path, first in zip(files, (200000, 300000), strict=True):
        path.write_text(f"other:100000:65536\n{os.getuid()}:{first}:8192\n")
    return files


@pytest.fixture
def ordinary(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1234)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


def test_the_largest_range_of_the_account_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "subuid"
    path.write_text("me:1:10\nyou:5:99999\nme:50:2000\n77:9000:3000\nme:bad:5\nme:1\n\n")
    assert sub_range(path, 77, "me") == (9000, 3000)
    assert sub_range(path, 78, "me") == (50, 2000)
    assert sub_range(path, 78, "nobody") is None
    assert sub_range(tmp_path / "missing", 77, "me") is None


@pytest.mark.usefixtures("ordinary")
def test_sub_ids_give_each_sandbox_a_slice_of_its_own(
    tmp_path: Path, subids: tuple[Path, Path]
) -> None:
    ids = plan(tmp_path, subids)
    assert (ids.kind, ids.count) == ("sub-ids", 4)
    assert ids.outer["uid"] == [[0, os.getuid(), 1], [1, 200000, 8192]]
    assert ids.outer["gid"] == [[0, os.getgid(), 1], [1, 300000, 8192]]
    second = ids.inner(1)
    assert second.maps[0] == "0 2049 2032\n65520 4081 16\n"
    assert second.expected == (
        ((0, 202048, 2032), (65520, 204080, 16)),
        ((0, 302048, 2032), (65520, 304080, 16)),
    )
    assert second.owners[1000] == (3049, 3049)
    assert second.ping_groups == (2049, 4080)
    used: set[int] = set()
    for number in range(ids.count):
        for _, first, count in ids.inner(number).expected[0]:
            mine = set(range(first, first + count))
            assert not mine & used and max(mine) < 200000 + 8192
            used |= mine
    ids.close()


@pytest.mark.usefixtures("ordinary")
def test_two_engines_of_one_account_share_no_slice(
    tmp_path: Path, subids: tuple[Path, Path]
) -> None:
    one, two = plan(tmp_path / "one", subids), plan(tmp_path / "two", subids)
    taken = [one.take(), two.take(), one.take(), two.take()]
    assert sorted(taken) == [0, 1, 2, 3]
    with pytest.raises(WallUnavailable, match="no ids are left"):
        one.take()
    two.give_back(taken[1])
    assert one.take() == taken[1]
    one.close()
    assert sorted([two.take() for _ in range(3)]) == sorted([taken[0], taken[1], taken[2]])
    two.close()


@pytest.mark.usefixtures("ordinary")
def test_without_sub_ids_there_is_one_id_and_no_root(tmp_path: Path) -> None:
    ids = plan(tmp_path, (tmp_path / "none", tmp_path / "none"))
    assert ids.kind == "single"
    inner = ids.inner(ids.take())
    assert inner.guest == 1000
    assert inner.expected == (((1000, os.getuid(), 1),), ((1000, os.getgid(), 1),))
    ids.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has a block of host ids")
def test_root_gives_each_sandbox_a_range_outside_its_builders(tmp_path: Path) -> None:
    ids = plan(tmp_path)
    try:
        first, second = ids.inner(ids.take()), ids.inner(ids.take())
        builder = ids.outer["become"]
        starts = [inner.expected[0][0][1] for inner in (first, second)]
        assert starts[1] - starts[0] == idranges.STRIDE
        assert builder < starts[0]
        assert first.owners[1000] == (starts[0] + 1000,) * 2
        assert first.writer_map(77) == f"77 {starts[0] - builder + 1000} 1\n"
    finally:
        ids.close()
