"""Marks: what a process has started is ended wherever it went, and nothing else is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from guest_host import USER, Host
from hypothesis import given
from hypothesis import strategies as st

from atoll.engine.marks import new_mark
from atoll.guest.marks import SPAN, Marks

MARKS = st.integers(min_value=1, max_value=SPAN - 1)
RUNAWAY = """
import os
for _ in range(3):
    if os.fork() == 0:
        while True:
            try:
                if os.fork():
                    os._exit(0)
            except OSError:
                continue
            os.setsid()
            open("PLACE", "a").close()
__import__("signal").pause()
"""


@given(MARKS, MARKS)
def test_no_mark_becomes_another_without_raising_a_limit(one: int, other: int) -> None:
    marks = Marks()
    mine, theirs = dict(marks.limits(one)), dict(marks.limits(other))
    assert (one == other) == all(theirs[kind] <= mine[kind] for kind in mine)


def test_no_mark_is_no_limit() -> None:
    assert Marks().limits(0) == []


def test_the_engine_draws_marks_that_the_guest_takes() -> None:
    drawn = {new_mark() for _ in range(1000)}
    assert len(drawn) == 1000
    assert all(0 < mark < SPAN for mark in drawn)


def test_without_room_for_marks_nothing_is_started() -> None:
    code = (
        "import resource\n"
        "from atoll.guest.marks import Marks\n"
        "from atoll.guest.refusal import Refused\n"
        "resource.setrlimit(15, (200_000, 200_000))\n"
        "try: Marks().limits(1)\n"
        "except Refused as refused: print(refused.code, refused.message)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "sandbox what starts here could not be ended: the account's hard limit" in done.stdout


def orphan(host: Host, place: Path, name: str, mark: int) -> int:
    """Start something that goes on as an orphan in a session of its own; its pid."""
    script = f"(setsid sh -c 'echo $$ > {place}/{name}; exec sleep 1000 > /dev/null 2>&1' &)"
    waiting = f"until [ -s {place}/{name} ]; do sleep 0.01; done"
    host.shell(f"{script}; {waiting}", mark=mark)
    return int((place / name).read_text())


def wait_for_end(pid: int) -> None:
    while Path(f"/proc/{pid}").exists():
        os.sched_yield()


def test_an_orphan_in_a_session_of_its_own_is_ended_by_its_mark(host: Host, place: Path) -> None:
    mine, other = orphan(host, place, "mine", 7), orphan(host, place, "other", 8)
    host.request("end", mark=7)
    wait_for_end(mine)
    assert Path(f"/proc/{other}").exists()
    host.request("end", mark=8)
    wait_for_end(other)


def test_of_a_child_the_guest_knows_the_mark(host: Host, place: Path) -> None:
    pid = host.start(
        "/bin/sh",
        "-c",
        f"(setsid sh -c 'echo $$ > {place}/orphan; exec sleep 1000' &); exec sleep 1000",
        mark=9,
    )
    host.shell(f"until [ -s {place}/orphan ]; do sleep 0.01; done", mark=10)
    host.request("end", pid=pid)
    assert host.exit_of(pid)["status"] == signal.SIGKILL
    wait_for_end(int((place / "orphan").read_text()))


def test_what_bears_no_mark_is_ended_by_its_group(host: Host) -> None:
    pid = host.start("/bin/sleep", "1000")
    host.request("end", pid=pid)
    assert host.exit_of(pid)["status"] == signal.SIGKILL


@pytest.mark.parametrize("wrong", [-1, SPAN, "7", True])
def test_a_mark_that_is_none_is_refused(host: Host, wrong: object) -> None:
    assert host.refusal("end", mark=wrong) == "invalid_argument"
    assert host.refusal("start", argv=["/bin/true"], user=USER, mark=wrong) == "invalid_argument"


def test_what_changes_its_pid_all_the_time_is_ended_too(host: Host, place: Path) -> None:
    script = RUNAWAY.replace("PLACE", str(place / "beat"))
    host.start("/usr/bin/env", "python3", "-c", script, mark=11)
    while not (place / "beat").exists():
        os.sched_yield()
    host.request("end", mark=11)
    for _ in range(1000):
        os.sched_yield()
    assert not [entry for entry in Path("/proc").iterdir() if bears(entry, 11)]


def bears(process: Path, mark: int) -> bool:
    """Whether this is a process that runs, a zombie not being one, and has this mark."""
    try:
        limits, command = (process / "limits").read_text(), (process / "cmdline").read_bytes()
    except OSError:
        return False
    return bool(command) and all(str(value) in limits for _, value in Marks().limits(mark))
