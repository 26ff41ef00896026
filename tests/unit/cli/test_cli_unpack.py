"""What a hostile archive can write: nothing outside of its own directory."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from atoll.cli.unpack import Unpacker


def _archive(*members: tuple[str, bytes, str]) -> io.BytesIO:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, kind, content in members:
            member = tarfile.TarInfo(name)
            member.type = kind
            member.mode = 0o6777
            if kind == tarfile.REGTYPE:
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content.encode()))
            else:
                member.linkname = content
                archive.addfile(member)
    file.seek(0)
    return file


FILE, DIRECTORY, LINK, HARD, DEVICE, FIFO = (
    tarfile.REGTYPE,
    tarfile.DIRTYPE,
    tarfile.SYMTYPE,
    tarfile.LNKTYPE,
    tarfile.CHRTYPE,
    tarfile.FIFOTYPE,
)


def test_files_directories_and_links(tmp_path: Path) -> None:
    root = tmp_path / "root"
    Unpacker(root).run(
        _archive(
            (".", DIRECTORY, ""),
            ("./a", DIRECTORY, ""),
            ("./a/file", FILE, "x"),
            ("./a/up", LINK, "../top"),
            ("./top", FILE, "y"),
            ("./same", HARD, "./a/file"),
        )
    )
    assert (root / "a" / "up").read_text() == "y"
    assert (root / "same").samefile(root / "a" / "file")
    assert (root / "top").stat().st_mode & 0o7777 == 0o755


@pytest.mark.parametrize(
    "members",
    [
        [("/etc/x", FILE, "x")],
        [("../x", FILE, "x")],
        [("a/../../x", FILE, "x")],
        [("link", LINK, "/etc")],
        [("link", LINK, "..")],
        [("a", DIRECTORY, ""), ("a/link", LINK, "../..")],
        [("a", DIRECTORY, ""), ("a/root", LINK, ".."), ("out", LINK, "a/root/..")],
        [("hard", HARD, "/etc/passwd")],
        [("hard", HARD, "../outside")],
        [("device", DEVICE, "")],
        [("pipe", FIFO, "")],
    ],
    ids=lambda members: "+".join(name for name, _, _ in members),
)
def test_what_leads_out_is_refused(tmp_path: Path, members: list[tuple[str, bytes, str]]) -> None:
    (tmp_path / "outside").write_text("untouched")
    with pytest.raises(tarfile.TarError):
        Unpacker(tmp_path / "root").run(_archive(*members))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["outside", "root"]
    assert (tmp_path / "outside").read_text() == "untouched"


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises((tarfile.TarError, OSError)):
        Unpacker(tmp_path / "root").run(_archive(("way", LINK, "deep"), ("way/file", FILE, "x")))
    assert not (tmp_path / "root" / "way").is_symlink()


def test_rubbish_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(tarfile.TarError):
        Unpacker(tmp_path / "root").run(io.BytesIO(b"no tar at all" * 100))
