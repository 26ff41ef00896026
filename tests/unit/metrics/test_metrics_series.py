"""The ring of samples, the counters, and what is kept on disk."""

from __future__ import annotations

import stat
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from atoll.engine.metrics import History, Monitoring, Series, Totals
from atoll.engine.metrics.history import FILE, HistoryFile, open_history
from atoll.engine.metrics.settings import HistoryError
from atoll.model import InvalidArgument, Metrics, MetricsSample

USED = Metrics(
    cpu_time=1.0,
    memory=(1 << 52) + 1,
    memory_peak=None,
    pids=3,
    disk=4096,
    disk_total=1 << 30,
    throttled_time=0.25,
    oom_kills=0,
)


def sample(time: float, **changed: object) -> MetricsSample:
    return replace(Series(1, 1.0).add(USED, time, time), **changed)  # type: ignore[arg-type]


def test_a_sample_comes_back_as_it_was_with_whole_counts_and_with_none() -> None:
    series = Series(10, 2.0)
    kept = series.add(USED, now=5.0, time=1000.5)
    assert series.between() == [kept]
    assert series.last() == kept
    assert (kept.memory, kept.memory_peak, kept.cpu_count) == ((1 << 52) + 1, None, 2.0)
    last = series.last()
    assert last is not None
    assert isinstance(last.memory, int)
    assert isinstance(last.throttled_time, float)


def test_cpu_is_in_percent_of_a_core_by_a_clock_that_never_goes_back() -> None:
    series = Series(10, 2.0)
    first = series.add(USED, now=5.0, time=1000.0)
    # The wall clock was put back meanwhile.
    second = series.add(replace(USED, cpu_time=4.0), now=7.0, time=400.0)
    idle = series.add(replace(USED, cpu_time=4.0), now=8.0, time=401.0)
    assert [s.cpu_percent for s in (first, second, idle)] == [None, 150.0, 0.0]


def test_the_ring_keeps_the_newest_in_order() -> None:
    series = Series(3, 1.0)
    assert series.last() is None
    assert series.between() == []
    for number in range(8):
        series.add(USED, now=number, time=number)
        last = series.last()
        assert last is not None
        assert last.timestamp == number
    assert [s.timestamp for s in series.between()] == [5, 6, 7]
    assert [s.timestamp for s in series.between(6, 6.5)] == [6]
    assert len(series) == 3


def test_nothing_counted_is_none_and_no_percent() -> None:
    series = Series(3, 1.0)
    for number in range(2):
        series.add(Metrics(None, None, None, None, None, None), now=number, time=number)
    last = series.last()
    assert last is not None
    assert (last.cpu_time, last.cpu_percent, last.memory) == (None, None, None)


def test_creates_fall_into_buckets_and_ends_are_counted_by_reason() -> None:
    totals = Totals()
    for seconds in (0.0005, 0.001, 0.0011, 60.0):
        totals.created(seconds, from_pool=seconds < 0.001)
    for reason in ("killed", "lease", "lease", "memory"):
        totals.ended(reason)
    assert (totals.creates, totals.pool_hits, totals.kills) == (4, 1, 1)
    assert totals.create_buckets[:2] == [2, 1]
    assert totals.create_buckets[-1] == 1
    assert totals.evictions == {"lease": 2, "memory": 1}


def test_history_is_kept_by_sandbox_and_time_and_outlives_its_writer(tmp_path: Path) -> None:
    file = HistoryFile(tmp_path, History())
    file.add([("a", sample(10.0)), ("b", sample(11.0)), ("a", sample(12.0, memory=7))])
    file.close()
    again = HistoryFile(tmp_path, History())
    assert again.between("a", 0, 100) == [sample(10.0), sample(12.0, memory=7)]
    assert again.between("a", 11, 100) == [sample(12.0, memory=7)]
    assert again.between("c", 0, 100) == []
    again.close()


def test_history_is_for_its_owner_alone(tmp_path: Path) -> None:
    file = HistoryFile(tmp_path, History())
    file.add([("a", sample(10.0))])
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.glob(f"{FILE}*")}
    file.close()
    assert modes == {0o600}


def test_history_is_pruned_by_age_and_by_number(tmp_path: Path) -> None:
    file = HistoryFile(tmp_path, History(keep=100, most=3))
    file.add([("a", sample(float(time))) for time in (10, 20, 150)])
    file.prune(now=160.0)
    assert [s.timestamp for s in file.between("a", 0, 1e9)] == [150]
    file.add([("a", sample(float(time))) for time in (151, 152, 153)])
    file.prune(now=160.0)
    assert [s.timestamp for s in file.between("a", 0, 1e9)] == [151, 152, 153]
    file.prune(now=1e6)
    assert file.between("a", 0, 1e9) == []
    file.close()


def test_two_engines_write_one_history(tmp_path: Path) -> None:
    files = [HistoryFile(tmp_path, History()) for _ in range(2)]

    def write(number: int) -> None:
        for time in range(50):
            files[number].add([(f"box{number}", sample(float(time)))])

    threads = [threading.Thread(target=write, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(files[0].between(f"box{number}", 0, 100)) for number in range(2)] == [50, 50]
    for file in files:
        file.close()


def test_rubbish_in_the_place_of_the_history_is_put_aside(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"no database at all" * 1000)
    file = open_history(tmp_path, History())
    file.add([("a", sample(1.0))])
    assert len(file.between("a", 0, 10)) == 1
    file.close()
    assert (tmp_path / f"{FILE}.bad").read_bytes().startswith(b"no database")


def test_a_history_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    file = HistoryFile(tmp_path, History())
    file.close()
    with pytest.raises(HistoryError, match="closed"):
        file.add([("a", sample(1.0))])


@pytest.mark.parametrize("wrong", [0, -1, True, "1"])
def test_settings_are_numbers_above_zero(wrong: float) -> None:
    with pytest.raises(InvalidArgument, match="interval"):
        Monitoring(interval=wrong)
    with pytest.raises(InvalidArgument, match="step"):
        History(step=wrong)


def test_a_sample_takes_little_memory() -> None:
    series = Series(300, 1.0)
    for number in range(1000):
        series.add(USED, now=number, time=number)
    assert series._rows.itemsize * len(series._rows) == 300 * 19 * 8
