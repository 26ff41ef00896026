"""The small parts: kept output, deadlines, trees, the registry of launchers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.engine.deadlines import Deadlines
from atoll.engine.output import Output
from atoll.engine.trees import remove_tree
from atoll.launch.registry import LAUNCHERS, choose, reap
from atoll.model import InvalidArgument, LauncherUnavailable
from atoll.testing.clock import SettableClock


@given(
    st.lists(st.tuples(st.sampled_from(["stdout", "stderr"]), st.binary(max_size=6))),
    st.lists(st.booleans()),
)
def test_a_reader_at_any_pace_sees_every_byte_in_order(
    pieces: list[tuple[str, bytes]], pace: list[bool]
) -> None:
    async def main() -> list[tuple[str, bytes]]:
        output = Output("stdout", "stderr", None)
        seen: list[tuple[str, bytes]] = []

        async def read() -> None:
            async for piece in output.follow():
                seen.append(piece)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read)
            for number, (stream, data) in enumerate(pieces):
                output.add(stream, data)
                if number < len(pace) and pace[number]:
                    await anyio.lowlevel.checkpoint()
            output.finish()
        return seen

    def bytewise(all_pieces: list[tuple[str, bytes]]) -> list[tuple[str, int]]:
        return [(stream, byte) for stream, data in all_pieces for byte in data]

    assert bytewise(anyio.run(main)) == bytewise(pieces)


def test_output_is_kept_up_to_its_limit_over_both_streams() -> None:
    output = Output("stdout", "stderr", 10)
    assert output.add("stdout", b"12345")
    assert output.add("stderr", b"abcde")
    assert not output.add("stdout", b"6")
    assert (output.text("stdout"), output.text("stderr")) == ("12345", "abcde")
    assert output.text("pty") == ""


def test_endless_changes_of_stream_pass_the_limit_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atoll.engine.output._MOST_TURNS", 4)
    output = Output("stdout", "stderr", None)
    assert [output.add(s, b"x") for s in ["stdout", "stderr"] * 3] == [True] * 4 + [False] * 2


@pytest.mark.anyio
async def test_deadlines_are_met_in_order_moved_and_dropped() -> None:
    clock = SettableClock()
    deadlines = Deadlines(clock)
    called: list[str] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(deadlines.run)
        for name, when in (("late", 30), ("early", 10), ("moved", 5), ("dropped", 6)):
            deadlines.set(name, clock.now() + when, lambda n=name: called.append(n))  # type: ignore[misc]
        deadlines.set("moved", clock.now() + 20, lambda: called.append("moved"))
        deadlines.drop("dropped")
        await clock.advance(15)
        assert called == ["early"]
        deadlines.set("earlier than all", clock.now() + 1, lambda: called.append("new"))
        await clock.advance(1)
        await clock.advance(100)
        assert called == ["early", "new", "moved", "late"]
        for number in range(1000):
            deadlines.set("again", clock.now() + number + 1, lambda: called.append("again"))
            deadlines.drop("nothing")
        assert len(deadlines._heap) < 200
        tasks.cancel_scope.cancel()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def test_a_tree_deeper_than_any_path_is_removed(tmp_path: Path) -> None:
    top = tmp_path / "top"
    top.mkdir()
    here = os.open(top, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d" * 20, dir_fd=here)
        os.symlink("/etc", "link", dir_fd=here)
        inner = os.open("d" * 20, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)
    remove_tree(top)
    assert not top.exists()
    remove_tree(top)


def test_removing_a_tree_follows_no_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    top = tmp_path / "top"
    (top / "inner").mkdir(parents=True)
    (top / "inner" / "link").symlink_to(outside)
    (top / "file").symlink_to(outside / "kept")
    remove_tree(top)
    assert (outside / "kept").exists()
    (tmp_path / "link").symlink_to(outside)
    with pytest.raises(OSError):
        remove_tree(tmp_path / "link")
    assert (outside / "kept").exists()


def test_the_launcher_without_walls_is_never_chosen_unnamed() -> None:
    assert not LAUNCHERS["fake"].automatic


def test_an_unknown_or_foreign_launcher_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InvalidArgument, match="docker"):
        choose("docker", tmp_path, "owner")
    monkeypatch.setattr("sys.platform", "linux")
    with pytest.raises(LauncherUnavailable, match="darwin"):
        choose("seatbelt", tmp_path, "owner")
    monkeypatch.setattr("sys.platform", "plan9")
    with pytest.raises(LauncherUnavailable, match="plan9"):
        choose(None, tmp_path, "owner")
    assert reap("fake", "nobody")
    assert reap("no-such-launcher", "nobody")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts")
def test_removing_a_tree_never_enters_what_is_mounted_in_it(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o750)
    (outside / "precious").write_text("kept")
    inside = tmp_path / "tree" / "mount"
    inside.mkdir(parents=True)
    script = (
        "import sys; from pathlib import Path\n"
        "from atoll.engine.trees import remove_tree\n"
        "try: remove_tree(Path(sys.argv[1]))\n"
        "except OSError as error: print(error.strerror)\n"
    )
    shell = 'mount --bind "$1" "$2" && exec "$3" -c "$4" "$5"'
    command = ["unshare", "-m", "sh", "-c", shell, "sh"]
    words = [str(outside), str(inside), sys.executable, script, str(tmp_path / "tree")]
    done = subprocess.run([*command, *words], capture_output=True, text=True, check=True)
    assert "busy" in done.stdout
    assert (outside / "precious").read_text() == "kept"
    assert outside.stat().st_mode & 0o777 == 0o750
