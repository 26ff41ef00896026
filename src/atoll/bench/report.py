"""A run's rows, and how they are written: JSON for programs, a Markdown table for people."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from atoll.bench.machine import Machine
from atoll.bench.samples import Summary
from atoll.bench.targets import TARGETS, Target

LATEST = "latest.md"


@dataclass(frozen=True)
class Row:
    """One thing that was measured, or why it was not."""

    key: str
    what: str
    unit: str
    summary: Summary | None = None
    beside: tuple[str, ...] = ()
    """Keys of the rows that were measured in turn with this one."""
    note: str = ""
    skipped: str | None = None
    failed: str | None = None


@dataclass(frozen=True)
class Report:
    """Everything one run found out."""

    taken_at: str
    quick: bool
    machine: Machine
    rows: tuple[Row, ...]
    peers: tuple[Row, ...] = ()
    load: float = 0.0
    """Processes that wanted a processor in the minute before the run."""

    @property
    def was_quiet(self) -> bool:
        """False if other programs took so much that the figures say little."""
        return self.load <= self.machine.cores / 4

    def row(self, key: str) -> Row | None:
        """The row or peer with this key."""
        return next((r for r in (*self.rows, *self.peers) if r.key == key), None)

    def missed(self) -> list[str]:
        """One line for every target that was measured and not met, or could not be measured."""
        lines = []
        for row in self.rows:
            verdict = self.verdict(row)
            if verdict in ("missed", "failed"):
                lines.append(f"{row.what}: {_reason(self, row, verdict)}")
        return lines

    def verdict(self, row: Row) -> str:
        """``met``, ``missed``, ``failed``, ``skipped``, or nothing where there is no target."""
        if row.failed is not None:
            return "failed"
        if row.summary is None:
            return "skipped"
        target = TARGETS.get(row.key)
        if target is None:
            return ""
        bound = self.bound(target)
        if bound is None:
            return "skipped"
        return "met" if target.holds(row.summary, bound) else "missed"

    def bound(self, target: Target) -> float | None:
        """The number to stay within, or None if its peer was not measured."""
        if target.of is None:
            return target.limit
        peer = self.row(target.of)
        if peer is None or peer.summary is None:
            return None
        return target.limit * peer.summary.median


def _reason(report: Report, row: Row, verdict: str) -> str:
    if verdict == "failed" or row.summary is None:
        return f"could not be measured: {row.failed}"
    target = TARGETS[row.key]
    value = getattr(row.summary, target.statistic)
    bound = report.bound(target)
    limit = "" if bound is None else f" (limit here: {number(bound)} {row.unit})"
    return f"{number(value)} {row.unit}, target {target.text}{limit}"


def number(value: float) -> str:
    """Three significant digits, without an exponent."""
    if value >= 100:
        return f"{value:,.0f}"
    if value >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}"


def markdown(report: Report) -> str:
    """The whole run as Markdown: what it ran on, our rows, and the peers in the same run."""
    kind = "A quick run" if report.quick else "A full run"
    head = [
        f"{kind} of `atoll bench engine` on {report.taken_at[:10]}.",
        f"Machine: {report.machine.line()}.",
        _load_line(report),
        "",
        "| what | target | min | median | p95 | n | verdict |",
        "| --- | --- | ---: | ---: | ---: | ---: | --- |",
    ]
    lines = [_line(report, row) for row in report.rows]
    return "\n".join([*head, *lines, "", *_peer_table(report)]) + "\n"


def _load_line(report: Report) -> str:
    said = f"Load before the run: {report.load:.1f}."
    if report.was_quiet:
        return said
    return f"{said} **Other programs ran at the same time: all figures are too slow.**"


def _line(report: Report, row: Row) -> str:
    target = TARGETS.get(row.key)
    goal = target.text if target else ""
    what = f"{row.what} ({row.note})" if row.note else row.what
    if row.summary is None:
        return f"| {what} | {goal} | | | | | {row.failed or row.skipped} |"
    return f"| {what} | {goal} | {_figures(row)} | {report.verdict(row)} |"


def _figures(row: Row) -> str:
    assert row.summary is not None
    values = (row.summary.minimum, row.summary.median, row.summary.p95)
    return " | ".join([*(f"{number(v)} {row.unit}" for v in values), f"{row.summary.n:,}"])


def _peer_table(report: Report) -> list[str]:
    lines = [
        "Peers, measured in turn with the rows above:",
        "",
        "| what | min | median | p95 | n |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for row in report.peers:
        figures = _figures(row) if row.summary else f" | {row.skipped or row.failed} | | "
        lines.append(f"| {row.what} | {figures} |")
    return lines


def as_json(report: Report) -> Mapping[str, object]:
    """The report as plain data, each row with its verdict and target."""
    data = asdict(report)
    for row, plain in zip(report.rows, data["rows"], strict=True):
        target = TARGETS.get(row.key)
        plain["target"] = target.text if target else None
        plain["verdict"] = report.verdict(row)
    return dict(data)


def save(report: Report, directory: Path) -> tuple[Path, Path]:
    """Write ``<date>-<kind of machine>.json`` and ``latest.md``; returns both paths."""
    directory.mkdir(parents=True, exist_ok=True)
    raw = directory / f"{report.taken_at[:10]}-{report.machine.slug()}.json"
    raw.write_text(json.dumps(as_json(report), indent=2) + "\n", encoding="utf-8")
    table = directory / LATEST
    table.write_text(markdown(report), encoding="utf-8")
    return raw, table
