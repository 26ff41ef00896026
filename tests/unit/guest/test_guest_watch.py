"""Watches: every event, once, in order."""

from __future__ import annotations

import os
import select
import time
from pathlib import Path

import pytest
from guest_host import SECONDS, Host, Watching


def test_events_come_in_order(host: Host, place: Path) -> None:
    watch = Watching(host, place, recursive=False)
    path = place / "f"
    path.write_text("x")
    path.chmod(0o600)
    path.rename(place / "g")
    place.joinpath("g").unlink()
    place.joinpath("sub").mkdir()
    place.joinpath("sub/inner").touch()
    place.joinpath("end").touch()
    assert watch.until("create", "end") == [
        ("create", "f"),
        ("write", "f"),
        ("chmod", "f"),
        ("rename", "f"),
        ("create", "g"),
        ("remove", "g"),
        ("create", "sub"),
        ("create", "end"),
    ]


def test_a_tree_is_watched_with_what_appears_in_it(host: Host, place: Path) -> None:
    place.joinpath("old/deep").mkdir(parents=True)
    watch = Watching(host, place, recursive=True)
    place.joinpath("old/deep/f").write_text("x")
    place.joinpath("new/a/b").mkdir(parents=True)
    place.joinpath("new/a/b/f").touch()
    place.joinpath("end").touch()
    events = watch.until("create", "end")
    assert events[:2] == [("create", "old/deep/f"), ("write", "old/deep/f")]
    created = [path for kind, path in events if kind == "create"]
    assert created == ["old/deep/f", "new", "new/a", "new/a/b", "new/a/b/f", "end"]


def test_a_renamed_directory_is_followed(host: Host, place: Path) -> None:
    place.joinpath("a/b").mkdir(parents=True)
    place.joinpath("c").mkdir()
    watch = Watching(host, place, recursive=True)
    place.joinpath("a").rename(place / "c/moved")
    assert [watch.event(), watch.event()] == [("rename", "a"), ("create", "c/moved")]
    place.joinpath("c/moved/b/f").touch()
    assert watch.event() == ("create", "c/moved/b/f")


def test_a_directory_moved_out_is_forgotten_and_moved_in_is_looked_through(
    host: Host, place: Path
) -> None:
    place.joinpath("top/a").mkdir(parents=True)
    watch = Watching(host, place / "top", recursive=True)
    place.joinpath("top/a").rename(place / "outside")
    assert watch.event() == ("rename", "a")
    place.joinpath("top/x").touch()
    assert watch.until("create", "x") == [("create", "x")]
    place.joinpath("outside/silent").touch()
    place.joinpath("outside").rename(place / "top/back")
    events = watch.until("create", "back/silent")
    assert [e for e in events if e[0] != "chmod"] == [
        ("create", "back"),
        ("create", "back/silent"),
    ]


def test_10000_creates_none_lost(host: Host, place: Path) -> None:
    watch = Watching(host, place, recursive=True)
    for i in range(10_000):
        os.close(os.open(place / f"f{i}", os.O_CREAT | os.O_WRONLY, 0o644))
    events = watch.until("create", "f9999")
    assert events == [("create", f"f{i}") for i in range(10_000)]


def test_creates_in_new_directories_none_lost_none_twice(host: Host, place: Path) -> None:
    watch = Watching(host, place, recursive=True)
    expected = []
    for i in range(300):
        place.joinpath(f"d{i}/e").mkdir(parents=True)
        expected += [f"d{i}", f"d{i}/e"]
        for j in range(10):
            os.close(os.open(place / f"d{i}/e/{j}", os.O_CREAT | os.O_WRONLY, 0o644))
            expected.append(f"d{i}/e/{j}")
    place.joinpath("end").touch()
    created = [path for kind, path in watch.until("create", "end") if kind == "create"]
    # Nothing may be missing, and nothing may come twice; a parent comes before what it holds.
    while len(created) < len(expected) + 1:
        created.append(watch.event()[1])
    assert sorted(created) == sorted([*expected, "end"])
    position = {path: i for i, path in enumerate(created)}
    for path in expected:
        parent = path.rpartition("/")[0]
        assert not parent or position[parent] < position[path]


def test_the_delay_of_an_event(host: Host, place: Path) -> None:
    watch = Watching(host, place, recursive=True)
    delays = []
    for i in range(300):
        start = time.perf_counter()
        os.close(os.open(place / f"f{i}", os.O_CREAT | os.O_WRONLY, 0o644))
        assert watch.event() == ("create", f"f{i}")
        delays.append(time.perf_counter() - start)
    delays.sort()
    assert delays[int(len(delays) * 0.95)] <= 0.010


def test_an_overflow_is_told_and_the_watch_goes_on(host: Host, place: Path) -> None:
    watch = Watching(host, place, recursive=True)
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    if limit > 100_000:
        pytest.skip("the queue is too long to be filled here")
    host.request("signal", pid=watch.pid, signal=19)
    for i in range(limit + 100):
        os.close(os.open(place / f"f{i}", os.O_CREAT | os.O_WRONLY, 0o644))
    place.joinpath("late").mkdir()
    host.request("signal", pid=watch.pid, signal=18)
    events = watch.until("overflow", "")
    assert 0 < len(events) <= limit + 1
    place.joinpath("late/f").touch()
    assert watch.event() == ("create", "late/f")


def test_a_slow_reader_loses_nothing_of_10000(host: Host, place: Path) -> None:
    watch = Watching(host, place, recursive=True)
    for i in range(10_000):
        name = place / f"{'x' * 100}{i}"
        os.close(os.open(name, os.O_CREAT | os.O_WRONLY, 0o644))
    # Over a megabyte of events, of which the pipe holds 64 KiB.
    assert len(watch.until("create", f"{'x' * 100}9999")) == 10_000


def test_it_ends_with_its_reader(host: Host, place: Path) -> None:
    watch = Watching(host, place, recursive=True)
    worker = os.pidfd_open(watch.pid)
    os.close(watch.out)
    assert select.select([worker], [], [], SECONDS)[0]
    os.close(worker)


@pytest.mark.parametrize("recursive", [True, False])
@pytest.mark.parametrize("end", ["remove", "rename"])
def test_it_ends_with_its_directory(host: Host, place: Path, end: str, recursive: bool) -> None:
    place.joinpath("top").mkdir()
    watch = Watching(host, place / "top", recursive)
    if end == "remove":
        place.joinpath("top").rmdir()
    else:
        place.joinpath("top").rename(place / "other")
    assert watch.event() == (end, ".")
    with pytest.raises(EOFError):
        watch.event()
