"""The one writer of a log file: nothing torn, nothing lost, never larger than allowed."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from atoll.engine import Logging
from atoll.engine.logs.writer import LineWriter
from atoll.model import InvalidArgument, OwnerError

FLOOD = Path(__file__).with_name("flood.py")


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    logger = logging.getLogger("atoll")
    before = (logger.level, list(logger.handlers))
    yield
    assert (logger.level, list(logger.handlers)) == before


def files(path: Path) -> list[Path]:
    """Oldest first."""
    numbered = [p for p in path.parent.glob(f"{path.name}.*") if p.suffix != ".lock"]
    return [*sorted(numbered, key=lambda p: -int(p.suffix[1:])), path]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for file in files(path) for text in file.read_text().splitlines()]


def test_what_is_logged_under_atoll_is_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "atoll.jsonl"
    with Logging(path, level="DEBUG"):
        logging.getLogger("atoll.engine.pool").debug("seen %d", 1)
        logging.getLogger("another").error("not ours")
    assert [(found["logger"], found["message"]) for found in lines(path)] == [
        ("atoll.engine.pool", "seen 1")
    ]
    assert path.stat().st_mode & 0o777 == 0o600


def test_basic_config_shows_it_too(tmp_path: Path) -> None:
    program = (
        "import logging; logging.basicConfig(level=logging.DEBUG)\n"
        "from atoll.engine.logs import SandboxLog\n"
        "SandboxLog('box', 1000, lambda: 0.0).event('sandbox.ended', 'it ended')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stderr == "INFO:atoll.sandbox:sandbox box: it ended\n"


def test_40_000_lines_of_four_threads_are_whole_complete_and_in_order(tmp_path: Path) -> None:
    path = tmp_path / "log"

    def work(thread: int) -> None:
        log = logging.getLogger("atoll.test")
        for number in range(10_000):
            log.info("line", extra={"fields": {"thread": thread, "number": number}})

    with Logging(path, max_size=500_000, keep=50):
        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    found = lines(path)
    for number in range(4):
        assert [x["number"] for x in found if x["thread"] == number] == list(range(10_000))
    assert len(files(path)) > 5
    assert max(file.stat().st_size for file in files(path)) <= 500_000


def test_only_so_many_older_files_stay(tmp_path: Path) -> None:
    path = tmp_path / "log"
    writer = LineWriter(path, max_size=100, keep=2)
    for number in range(50):
        writer.write(b"%09d\n" % number)
    writer.close()
    kept = b"".join(file.read_bytes() for file in files(path))
    assert [file.name for file in files(path)] == ["log.2", "log.1", "log"]
    assert kept == b"".join(b"%09d\n" % number for number in range(20, 50))


def test_none_older_stays_if_none_is_wanted(tmp_path: Path) -> None:
    writer = LineWriter(tmp_path / "log", max_size=100, keep=0)
    for number in range(15):
        writer.write(b"%09d\n" % number)
    writer.close()
    assert files(tmp_path / "log") == [tmp_path / "log"]
    assert (tmp_path / "log").read_bytes().startswith(b"000000010\n")


def test_a_line_longer_than_a_file_has_a_file_of_its_own(tmp_path: Path) -> None:
    writer = LineWriter(tmp_path / "log", max_size=100, keep=5)
    for line in (b"short\n", b"x" * 300 + b"\n", b"short\n"):
        writer.write(line)
    writer.close()
    assert [file.stat().st_size for file in files(tmp_path / "log")] == [6, 301, 6]


@pytest.mark.parametrize("max_size", [100_000, 100_000_000])
def test_sigkill_costs_the_last_second_at_most(tmp_path: Path, max_size: int) -> None:
    path = tmp_path / "log"
    with subprocess.Popen(
        [sys.executable, FLOOD, path, str(max_size)], stdout=subprocess.PIPE
    ) as flood:
        assert flood.stdout is not None
        assert flood.stdout.readline() == b"ready\n"
        time.sleep(1.5)  # a measured time, not a wait for something
        flood.kill()
        killed = time.time()
    LineWriter(path, max_size, 50).close()  # removes what was left unfinished
    found = lines(path)
    assert [line["number"] for line in found] == list(range(len(found)))
    assert len(found) > 4_000
    assert killed - datetime.fromisoformat(found[-1]["timestamp"]).timestamp() < 1.0


def test_an_unfinished_last_line_is_removed_at_the_next_start(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b'{"whole":1}\n{"torn":')
    writer = LineWriter(path, 1000, 1)
    writer.write(b'{"next":2}\n')
    writer.close()
    assert path.read_bytes() == b'{"whole":1}\n{"next":2}\n'


def test_a_second_writer_of_a_file_is_refused(tmp_path: Path) -> None:
    with Logging(tmp_path / "log"), pytest.raises(OwnerError, match="another process"):
        Logging(tmp_path / "log").open()
    with Logging(tmp_path / "log"):
        pass


def test_a_link_in_the_place_of_the_log_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "log").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        Logging(tmp_path / "log").open()
    assert not (tmp_path / "elsewhere").exists()


FULL_DISK = """
import resource, sys
from pathlib import Path
from atoll.engine.logs.writer import LineWriter

# The kernel refuses what goes beyond, as a full disk does, in the middle of a line too.
resource.setrlimit(resource.RLIMIT_FSIZE, (12_345, resource.RLIM_INFINITY))
writer = LineWriter(Path(sys.argv[1]), 1 << 20, 1)
for number in range(4000):
    writer.write(b"%09d\\n" % number)
assert not writer.flush(timeout=0.3)
assert Path(sys.argv[1]).stat().st_size == 12_345
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert writer.flush(timeout=5)
writer.close()
"""


def test_lines_wait_for_a_full_disk_and_are_whole_when_there_is_room(tmp_path: Path) -> None:
    path = tmp_path / "log"
    subprocess.run([sys.executable, "-c", FULL_DISK, path], check=True)
    assert path.read_bytes() == b"".join(b"%09d\n" % number for number in range(4000))


def test_nothing_waits_for_the_disk_while_it_logs(tmp_path: Path) -> None:
    writer = LineWriter(tmp_path / "log", 100 << 20, 1)
    start = time.perf_counter()
    for _ in range(10_000):
        writer.write(b"x" * 200 + b"\n")
    assert time.perf_counter() - start < 1.0
    writer.close()


def test_the_audit_log_has_a_file_of_its_own_as_well(tmp_path: Path) -> None:
    with Logging(tmp_path / "log", audit=tmp_path / "audit"):
        logging.getLogger("atoll.audit").info("who")
        logging.getLogger("atoll.engine").info("what")
    assert [line["message"] for line in lines(tmp_path / "audit")] == ["who"]
    assert [line["message"] for line in lines(tmp_path / "log")] == ["who", "what"]


@pytest.mark.parametrize(
    "wrong", [{"keep": -1}, {"keep": True}, {"level": "loud"}, {"max_size": "some"}]
)
def test_settings_that_can_never_work_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument):
        Logging("log", **wrong)
