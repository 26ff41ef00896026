"""Verdicts, the table and the files of a run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from atoll.bench.machine import Machine, describe
from atoll.bench.report import Report, Row, markdown, save
from atoll.bench.samples import Summary
from atoll.bench.targets import TARGETS

MACHINE = Machine("CPU", 2, "x86_64", 24 << 30, "6.1.0-x", "Debian", "3.11.2", "fake", "root")


def _report(median: float) -> Report:
    rows = (
        Row("base_first_cell", "base", "ms", Summary(1, median, 9, 10), ("bare_python",)),
        Row("alive_create", "1,000 alive", "ms", skipped="not asked"),
    )
    peers = (Row("bare_python", "bare", "ms", Summary(18, 20, 30, 10)),)
    return Report("2026-01-02T03:04:05+00:00", False, MACHINE, rows, peers)


def test_a_relative_target_is_taken_of_the_peer_in_the_same_run() -> None:
    met, missed = _report(4.9), _report(5.1)
    assert met.verdict(met.rows[0]) == "met"
    assert met.missed() == []
    assert missed.verdict(missed.rows[0]) == "missed"
    assert missed.missed() == [
        "base: 5.10 ms, target at most 0.25 x bare python3 (limit here: 5.00 ms)"
    ]


def test_a_row_that_failed_is_a_missed_target_and_a_skipped_one_is_not() -> None:
    report = replace(_report(1.0), rows=(Row("hot_cell", "hot", "ms", failed="SandboxDied: gone"),))
    assert report.missed() == ["hot: could not be measured: SandboxDied: gone"]
    assert _report(1.0).verdict(_report(1.0).rows[1]) == "skipped"


def test_a_rate_has_to_reach_its_target() -> None:
    row = Row("sustained", "s", "/s", Summary(100, 149, 200, 10))
    report = replace(_report(1.0), rows=(row,))
    assert report.verdict(row) == "missed"


def test_every_relative_target_names_a_peer_that_is_measured() -> None:
    assert {t.of for t in TARGETS.values() if t.of} <= {
        "bare_python",
        "alive_at_10",
        "socat_bytes",
    }


def test_the_table_has_a_line_for_each_row_and_peer() -> None:
    text = markdown(_report(4.0))
    assert "| base | at most 0.25 x bare python3 | 1.00 ms | 4.00 ms | 9.00 ms | 10 | met |" in text
    assert "| 1,000 alive | at most 2 x the time at 10 alive | | | | | not asked |" in text
    assert "| bare | 18.0 ms | 20.0 ms | 30.0 ms | 10 |" in text
    assert "2026-01-02" in text


def test_a_run_on_a_busy_machine_says_so() -> None:
    assert "Load before the run: 0.0.\n" in markdown(_report(4.0))
    assert "too slow" in markdown(replace(_report(4.0), load=1.5))


def test_files_are_named_after_the_kind_of_machine(tmp_path: Path) -> None:
    raw, table = save(_report(4.0), tmp_path / "results")
    assert raw.name == "2026-01-02-x86_64-2cores-linux6.1-root.json"
    assert json.loads(raw.read_text())["rows"][0]["verdict"] == "met"
    assert table.name == "latest.md"


def test_the_machine_is_described_without_its_name() -> None:
    import platform

    machine = describe("fake")
    assert machine.cores >= 1
    assert machine.memory_bytes > 1 << 20
    assert platform.node() not in machine.slug()
