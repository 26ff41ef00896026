"""`atoll ps`, `exec`, `cp` and `kill` reach the sandboxes of another program."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import anyio
import pytest
from command_line import Atoll

from atoll.cli.copy import Place
from atoll.cli.processes import age
from atoll.engine.owner_client import Owners

_HOLDER = """
import sys
from atoll import Limits, SyncEngine
limits = Limits(**{name.replace("-", "_"): None for name in sys.argv[1:]})
with SyncEngine() as engine:
    sandbox = engine.create(template="base", metadata={"for": "test"}, limits=limits)
    print(sandbox.id, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def held(lifted: tuple[str, ...], atoll_environment: dict[str, str]) -> Iterator[str]:
    """The id of a sandbox that another program holds."""
    with subprocess.Popen(
        [sys.executable, "-c", _HOLDER, *lifted],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=atoll_environment,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        yield holder.stdout.readline().strip()
        holder.communicate("", timeout=30)


def test_ps_shows_it(atoll: Atoll, held: str) -> None:
    done = atoll("ps")
    assert done.returncode == 0, done.stderr
    heads, line = done.stdout.decode().splitlines()
    assert heads.startswith("ID")
    assert line.startswith(held)
    assert "base" in line
    found = json.loads(atoll("ps", "--json").stdout)
    assert [item["id"] for item in found] == [held]
    assert found[0]["metadata"] == {"for": "test"}


def test_exec_passes_bytes_and_the_exit_code(atoll: Atoll, held: str) -> None:
    data = os.urandom(1 << 20)
    assert atoll("exec", held, "--", "cat", stdin=data).stdout == data
    done = atoll("exec", held[:6], "--", "sh", "-c", "echo out; echo err >&2; exit 3")
    assert (done.stdout, done.stderr, done.returncode) == (b"out\n", b"err\n", 3)


def test_many_short_commands_lose_nothing(held: str, atoll_environment: dict[str, str]) -> None:
    owners = Owners(Path(atoll_environment["ATOLL_DATA_DIR"]))

    async def call() -> tuple[str, int]:
        printed = b""
        async with owners.exec(held, ["sh", "-c", "echo out; exit 3"]) as process:
            with suppress(ConnectionError):
                await process.close_input()
            async for _, data in process.output():
                printed += data
            return printed.decode(), (await process.wait()).exit_code

    async def work() -> set[tuple[str, int]]:
        return {await call() for _ in range(100)}

    assert anyio.run(work) == {("out\n", 3)}


def test_exec_says_what_docker_says(atoll: Atoll, held: str) -> None:
    missing = atoll("exec", held, "--", "no-such-program")
    assert missing.returncode == 127
    assert missing.stderr.startswith(b"Error: ")
    assert atoll("exec", held, "--", "/etc").returncode == 126
    assert atoll("exec", "nobody", "--", "true").returncode == 125
    assert atoll("exec", held, "--timeout", "0.3", "--", "sleep", "60").returncode == 124
    assert atoll("exec", held, "--tty", "--", "true").returncode == 125


def test_a_file_goes_in_and_comes_out(atoll: Atoll, held: str, tmp_path: Path) -> None:
    data = os.urandom(3_000_000)
    (tmp_path / "in").write_bytes(data)
    (tmp_path / "in").chmod(0o755)
    assert atoll("cp", str(tmp_path / "in"), f"{held}:some/place").returncode == 0
    done = atoll("cp", f"{held}:/home/user/some/place", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out").read_bytes() == data
    assert atoll("exec", held, "--", "test", "-x", "some/place").returncode == 0
    assert atoll("cp", f"{held}:some/place", str(tmp_path)).returncode == 0
    assert (tmp_path / "place").read_bytes() == data


def test_a_directory_goes_in_and_comes_out(atoll: Atoll, held: str, tmp_path: Path) -> None:
    (tmp_path / "tree" / "deep").mkdir(parents=True)
    (tmp_path / "tree" / "deep" / "file").write_text("x")
    done = atoll("cp", str(tmp_path / "tree"), f"{held}:")
    assert done.returncode == 0, done.stderr
    done = atoll("cp", f"{held}:tree", str(tmp_path / "back"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "back" / "deep" / "file").read_text() == "x"


def test_a_hostile_tree_writes_nothing_beside_its_place(
    atoll: Atoll, held: str, tmp_path: Path
) -> None:
    code = "mkdir -p evil; ln -sfn /etc evil/way; ln -sfn ../../.. evil/up; echo x > evil/file"
    assert atoll("exec", held, "--", "sh", "-c", code).returncode == 0
    done = atoll("cp", f"{held}:evil", str(tmp_path / "evil"))
    assert done.returncode == 1
    assert b"cannot be unpacked" in done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("source", "target", "said"),
    [
        ("{id}:gone", "out", b"gone"),
        ("gone", "{id}:x", b"there is no file gone"),
        ("a", "b", b"one side"),
        ("{id}:/etc/passwd", "no/such/directory/out", b"cannot write"),
        ("/dev/zero", "{id}:x", b"neither a file nor a directory"),
    ],
)
def test_a_copy_that_cannot_be_made(
    atoll: Atoll, held: str, tmp_path: Path, source: str, target: str, said: bytes
) -> None:
    done = atoll("cp", source.format(id=held), target.format(id=held), cwd=tmp_path)
    assert done.returncode == 1
    assert said in done.stderr
    assert b"Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_kill_ends_it(atoll: Atoll, held: str) -> None:
    assert json.loads(atoll("kill", held, "--json").stdout) == {"killed": True}
    assert atoll("ps", "--json").stdout == b"[]\n"
    gone = atoll("kill", held)
    assert gone.returncode == 1
    assert held.encode() in gone.stderr


def test_places() -> None:
    assert Place.parse("abc:/x") == Place("/x", "abc")
    assert Place.parse("abc:") == Place(".", "abc")
    assert Place.parse("./a:b") == Place("./a:b")
    assert Place.parse("plain") == Place("plain")
    assert Place.parse(":x") == Place(":x")


def test_ages() -> None:
    assert [age(s) for s in (0, 61, 3_700, 90_000, -5)] == ["0s", "1m1s", "1h1m", "1d1h", "0s"]
