"""The table of walls and limits: what is kept where, and what is refused. One table, in code.

`create`'s refusals, the texts of their errors, `atoll doctor` and docs/security.md all come from
here. A verdict follows what this machine's probe found; the columns are what to expect.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from atoll.launch.linux.walls_situation import Column, Situation
from atoll.launch.linux.walls_table import FEATURES, LIMITS, WALLS, Row, Verdict, VerdictKind
from atoll.model import IsolationError, Limits, LimitUnavailable, WallUnavailable

TITLES = {
    Column.ROOT: "root",
    Column.ROOTLESS_DELEGATED: "ordinary user, delegated cgroup",
    Column.ROOTLESS: "ordinary user, bare",
}


class Subject(Enum):
    """What a refusal is about."""

    WALL = "wall"
    LIMIT = "limit"


@dataclass(frozen=True)
class Refusal:
    """One thing that was asked for and cannot be had here."""

    subject: Subject
    name: str
    reason: str
    fix: str

    def error(self) -> IsolationError:
        """The error that says so."""
        if self.subject is Subject.WALL:
            return WallUnavailable(
                f"the wall {self.name!r} cannot be built here: {self.reason}", hint=f"{self.fix}."
            )
        return LimitUnavailable(
            f"limit {self.name} cannot be held here: {self.reason}",
            hint=f"{self.fix}, or pass {self.name}=None to go without this limit.",
        )


def verdict(row: Row, situation: Situation) -> Verdict:
    """What `row` comes to on this very machine."""
    if row.name in ("memory", "cpu", "pids"):
        return _held_by_cgroup(row, situation)
    if row.name == "cpu_time":
        if situation.counts_cpu_time:
            return row.of(Column.ROOT)
        return Verdict.refused(row.of(Column.ROOTLESS).how.rstrip("."), situation.fix)
    if row.name == "own ids" and situation.column is not Column.ROOT and not situation.sub_ids:
        return Verdict.refused(
            "this account has no sub-ids (/etc/subuid, /etc/subgid) or no newuidmap, so every "
            "sandbox would share the account's own id",
            "`sudo apt-get install uidmap && sudo usermod --add-subuids 100000-165535 "
            f"--add-subgids 100000-165535 {situation.account}`",
        )
    return row.of(situation.column)


def _held_by_cgroup(row: Row, situation: Situation) -> Verdict:
    if row.name in situation.holds:
        return row.of(Column.ROOT)
    fallback = row.of(Column.ROOTLESS)
    if fallback.kind is VerdictKind.SUBSTITUTE and situation.own_ids:
        return fallback
    return Verdict.refused(situation.reason.get(row.name, "no cgroup holds it"), situation.fix)


def verdicts(situation: Situation) -> Mapping[str, Verdict]:
    """Every wall and limit by name, as it is on this machine."""
    return {row.name: verdict(row, situation) for row in (*WALLS, *LIMITS)}


def refusals(limits: Limits, situation: Situation) -> list[Refusal]:
    """What a sandbox with these limits cannot have here; empty if it can be made.

    Walls come first: none of them can be gone without.
    """
    found = []
    for subject, rows in ((Subject.WALL, WALLS), (Subject.LIMIT, LIMITS)):
        for row in rows:
            if subject is Subject.LIMIT and getattr(limits, row.name) is None:
                continue
            what = verdict(row, situation)
            if what.kind is VerdictKind.REFUSED:
                found.append(Refusal(subject, row.name, what.how, what.fix))
    return found


def require(limits: Limits, situation: Situation) -> None:
    """Refuse a sandbox that could not be as tight as was asked.

    Raises:
        WallUnavailable, LimitUnavailable: with every limit that cannot be held in one message.
    """
    found = refusals(limits, situation)
    if not found:
        return
    first = found[0]
    if first.subject is Subject.WALL or len(found) == 1:
        raise first.error()
    reasons = dict.fromkeys(refusal.reason for refusal in found)
    fixes = dict.fromkeys(refusal.fix for refusal in found)
    names = [refusal.name for refusal in found]
    raise LimitUnavailable(
        f"limits {', '.join(names)} cannot be held here: {'; '.join(reasons)}",
        hint=f"{'; '.join(fixes)}, or pass {', '.join(f'{n}=None' for n in names)} "
        "to go without these limits.",
    )


def markdown() -> str:
    """The tables of docs/security.md."""
    head = "| | " + " | ".join(TITLES[column] for column in Column) + " |"
    rule = "| --- " * (len(Column) + 1) + "|"
    parts = []
    for title, rows in (("Wall", WALLS), ("Limit", LIMITS)):
        parts += [head.replace("| |", f"| {title} |", 1), rule]
        parts += [_line(row) for row in rows]
        parts.append("")
    parts += ["| Feature of the kernel | since | used for | without it |", "| --- " * 4 + "|"]
    parts += [f"| {f.name} | {f.since} | {f.used_for} | {f.without} |" for f in FEATURES]
    return "\n".join(parts) + "\n"


def _line(row: Row) -> str:
    cells = [f"**{row.name}**: {row.what}"]
    before = None
    for column in Column:
        what = row.of(column)
        text = f"{what.kind.value}: {what.how}"
        text = f"{text} Fix: {what.fix}" if what.fix else text
        cells.append("the same" if what == before else text)
        before = what
    return "| " + " | ".join(cells) + " |"
