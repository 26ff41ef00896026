"""File operations, by a worker with the user's rights."""

from __future__ import annotations

import json
import os
import select
import stat
import time
from pathlib import Path

import pytest
from guest_host import ROOT, SECONDS, UID, USER, GuestError, Host, pipe, read_all

from atoll.guest import fields


def test_what_is_written_is_read(host: Host, place: Path) -> None:
    data = os.urandom(3_000_000)
    path = place / "data"
    ok, _ = host.file("write", data, path=str(path))
    entry = ok["entry"]
    assert entry.pop("modified") == pytest.approx(time.time(), abs=60)
    group = entry.pop("group")
    assert group
    assert entry == {
        "name": "data",
        "path": str(path),
        "type": "file",
        "size": len(data),
        "mode": 0o644,
        "owner": "user" if ROOT and entry["owner"] == "user" else entry["owner"],
        "symlink_target": None,
    }
    assert path.stat().st_uid == UID
    assert host.file("read", path=str(path)) == ({"size": len(data)}, data)


def test_a_part_is_read(host: Host, place: Path) -> None:
    host.file("write", b"0123456789", path=str(place / "f"))
    path = str(place / "f")
    assert host.file("read", path=path, offset=3, length=4) == ({"size": 4}, b"3456")
    assert host.file("read", path=path, offset=8, length=40) == ({"size": 2}, b"89")
    assert host.file("read", path=path, offset=80) == ({"size": 0}, b"")
    assert host.file("read", path=path, offset=1 << 62) == ({"size": 0}, b"")
    assert host.file("read", path=path, length=0) == ({"size": 0}, b"")


def test_a_file_of_proc_is_read_to_its_end(host: Host) -> None:
    ok, data = host.file("read", path="/proc/self/status")
    assert ok == {"size": 0}
    assert b"CapEff:\t0000000000000000" in data


def test_writing_truncates_appends_and_sets_the_mode(host: Host, place: Path) -> None:
    path = str(place / "f")
    host.file("write", b"long content", path=path, mode=0o600)
    assert stat.S_IMODE(Path(path).stat().st_mode) == 0o600
    host.file("write", b"short", path=path)
    host.file("write", b"er", path=path, append=True)
    assert Path(path).read_bytes() == b"shorter"
    host.file("write", b"", path=path)
    assert Path(path).read_bytes() == b""


def test_missing_parents_are_made_and_are_the_users(host: Host, place: Path) -> None:
    host.file("write", b"x", path=str(place / "a/b/c"))
    assert {p.stat().st_uid for p in (place / "a", place / "a/b", place / "a/b/c")} == {UID}


@pytest.mark.parametrize("do", ["read", "write"])
def test_a_fifo_cannot_make_it_wait(host: Host, place: Path, do: str) -> None:
    path = place / "fifo"
    os.mkfifo(path)
    path.chmod(0o666)
    assert host.file_refusal(do, b"x", path=str(path)) == "not_a_regular_file"
    # Neither when somebody has it open.
    fd = os.open(path, os.O_RDWR)
    assert host.file_refusal(do, b"x", path=str(path)) == "not_a_regular_file"
    os.close(fd)


@pytest.mark.parametrize(
    ("do", "path", "code"),
    [
        ("read", "/dev/zero", "not_a_regular_file"),
        ("write", "/dev/null", "not_a_regular_file"),
        ("read", "/", "is_a_directory"),
        ("write", "/", "is_a_directory"),
        ("read", "/no/such", "file_not_found"),
        ("read", "FILE/x", "not_a_directory"),
        ("write", "FILE/x", "not_a_directory"),
        ("read", "", "invalid_path"),
        ("read", "a\0b", "invalid_path"),
        ("read", "\ud800", "invalid_path"),
        ("read", "/" + "x" * 300, "invalid_path"),
        ("read", "/x" * 4000, "invalid_path"),
        ("stat", "/no/such", "file_not_found"),
        ("list", "/no/such", "file_not_found"),
        ("list", "FILE", "not_a_directory"),
        ("remove", "/no/such", "file_not_found"),
        ("make_dir", "FILE", "file_exists"),
        ("make_dir", "FILE/x", "not_a_directory"),
        ("watch", "FILE", "not_a_directory"),
        ("watch", "/no/such", "file_not_found"),
        ("write", "/proc/sys/kernel/x", "file_access_denied"),
    ],
)
def test_errors_have_their_names(host: Host, place: Path, do: str, path: str, code: str) -> None:
    place.joinpath("file").touch()
    path = path.replace("FILE", str(place / "file"))
    if code == "file_access_denied" or do == "write":
        # /proc has no room for new files: ENOENT for whoever may search it.
        assert host.file_refusal(do, b"x", path=path) in (code, "file_not_found")
    else:
        assert host.file_refusal(do, b"x", path=path) == code
    assert host.run("/bin/true") == (0, "")


def test_the_user_has_the_users_rights_only(host: Host, place: Path) -> None:
    if not ROOT:
        pytest.skip("only root can make what others may not reach")
    place.joinpath("closed").mkdir(mode=0o700)
    path = str(place / "closed/f")
    assert host.file_refusal("write", b"x", path=path) == "file_access_denied"
    assert host.file_refusal("make_dir", path=path) == "file_access_denied"
    assert host.file_refusal("list", path=str(place / "closed")) == "file_access_denied"
    place.joinpath("secret").touch(mode=0o600)
    assert host.file_refusal("read", path=str(place / "secret")) == "file_access_denied"
    host.file("write", b"x", path=path, user="root")
    assert Path(path).stat().st_uid == 0


def test_writing_through_a_symlink(host: Host, place: Path) -> None:
    place.joinpath("link").symlink_to(place / "target")
    host.file("write", b"x", path=str(place / "link"))
    assert place.joinpath("target").read_bytes() == b"x"
    assert place.joinpath("link").is_symlink()
    place.joinpath("loop").symlink_to("loop")
    assert host.file_refusal("read", path=str(place / "loop")) == "invalid_path"


def test_a_full_device(host: Host, place: Path) -> None:
    host.request("configure", rlimits={"fsize": 1000})
    path = str(place / "f")
    assert host.file_refusal("write", b"x" * 5000, path=path) == "disk_full"


def test_stat_describes_the_symlink_itself(host: Host, place: Path) -> None:
    place.joinpath("link").symlink_to("no such target")
    entry = host.file("stat", path=str(place / "link"))[0]["entry"]
    assert (entry["type"], entry["symlink_target"]) == ("symlink", "no such target")
    os.mkfifo(place / "fifo")
    assert host.file("stat", path=str(place / "fifo"))[0]["entry"]["type"] == "other"
    root = host.file("stat", path="/")[0]["entry"]
    assert (root["name"], root["path"], root["type"]) == ("/", "/", "dir")
    assert root["owner"] == "root"


def test_exists(host: Host, place: Path) -> None:
    place.joinpath("link").symlink_to("no such target")
    assert host.file("exists", path=str(place / "link"))[0] == {"exists": True}
    assert host.file("exists", path=str(place / "missing"))[0] == {"exists": False}
    assert host.file("exists", path="/bin/true/x")[0] == {"exists": False}


def test_paths_start_at_home(host: Host) -> None:
    assert fields.path("~", "/home/user") == b"/home/user"
    assert fields.path("~/x", "/home/user") == b"/home/user/x"
    assert fields.path("~x", "/home/user") == b"/home/user/~x"
    assert fields.path("x/../y", "/home/user") == b"/home/user/x/../y"
    with pytest.raises(GuestError, match="no such file here") as caught:
        host.file("read", path="no such file here")
    assert caught.value.code == "file_not_found"


def listed(host: Host, path: Path, depth: int) -> list[str]:
    ok, data = host.file("list", path=str(path), depth=depth)
    assert ok == {}
    entries = [json.loads(line) for line in data.splitlines()]
    assert all(entry["name"] == entry["path"].rpartition("/")[2] for entry in entries)
    return [entry["path"].removeprefix(f"{path}/") for entry in entries]


def test_listing_goes_as_deep_as_asked(host: Host, place: Path) -> None:
    place.joinpath("b/c/d").mkdir(parents=True)
    place.joinpath("a").touch()
    place.joinpath("z").symlink_to("b")
    assert listed(host, place, 1) == ["a", "b", "z"]
    assert listed(host, place, 2) == ["a", "b", "b/c", "z"]
    assert listed(host, place, 9) == ["a", "b", "b/c", "b/c/d", "z"]
    assert listed(host, place / "b/c/..", 1) == [str(place / "b/c")]


def test_listing_odd_names(host: Host, place: Path) -> None:
    names = [b"\xff", b'"', b"a\nb", b"\x01", "ü€😀".encode(), b"\\"]
    for raw in names:
        os.close(os.open(os.fsencode(place) + b"/" + raw, os.O_CREAT))
    found = listed(host, place, 1)
    assert sorted(os.fsencode(name) for name in found) == sorted(names)
    for name in found:
        host.file("remove", path=str(place / name))


def test_listing_10000_files(host: Host, place: Path) -> None:
    for i in range(10_000):
        place.joinpath(f"file-{i:05}").touch()
    assert listed(host, place, 1) == [f"file-{i:05}" for i in range(10_000)]


def test_a_listing_nobody_reads_ends(host: Host) -> None:
    out, inner = os.pipe()
    request = {"do": "list", "path": "/usr", "depth": 9, "user": USER, "fds": {"out": 0}}
    pid = host.request("file", (inner,), **request)["pid"]
    worker = os.pidfd_open(pid)
    os.close(inner)
    os.close(out)
    assert select.select([worker], [], [], SECONDS)[0]
    os.close(worker)


def test_a_worker_can_be_killed(host: Host, place: Path) -> None:
    with pipe() as (out, inner), pipe() as (source, _feed):
        request = {"do": "write", "path": str(place / "f"), "user": USER}
        pid = host.request("file", (inner, source), fds={"out": 0, "in": 1}, **request)["pid"]
        os.close(inner)
        host.request("signal", pid=pid, signal=9)
        assert read_all(out) == b""
    assert not host.exits  # workers end without an event


def test_make_dir(host: Host, place: Path) -> None:
    ok, _ = host.file("make_dir", path=str(place / "a/b"))
    assert ok["created"] is True
    assert ok["entry"]["type"] == "dir"
    assert host.file("make_dir", path=str(place / "a/b"))[0]["created"] is False
    deep = str(place) + "/d" * 1500
    assert host.file("make_dir", path=deep)[0]["created"] is True
    host.file("remove", path=str(place / "d"))


def test_move(host: Host, place: Path) -> None:
    host.file("write", b"1", path=str(place / "a"))
    host.file("write", b"2", path=str(place / "b"))
    host.file("move", source=str(place / "a"), target=str(place / "b"))
    assert place.joinpath("b").read_bytes() == b"1"
    host.file("move", source=str(place / "b"), target=str(place / "new/dir/c"))
    assert place.joinpath("new/dir/c").read_bytes() == b"1"
    source = str(place / "new")
    assert host.file_refusal("move", source=source, target=source + "/x/y") == "invalid_path"
    missing = str(place / "missing")
    assert host.file_refusal("move", source=missing, target=source) == "file_not_found"
    place.joinpath("full/x").mkdir(parents=True)
    full = str(place / "full")
    assert host.file_refusal("move", source=source, target=full) == "directory_not_empty"


def test_move_to_another_file_system(host: Host, place: Path) -> None:
    shared = Path("/dev/shm")
    if shared.stat().st_dev == place.stat().st_dev:
        pytest.skip("needs a second file system")
    tree = place / "tree"
    host.shell(
        f"mkdir -p {tree}/sub; echo x > {tree}/sub/f; chmod 640 {tree}/sub/f; "
        f"ln -s sub/f {tree}/link; mkfifo {tree}/fifo; touch -d @1000 {tree}/sub"
    )
    target = shared / f"moved-{os.getpid()}"
    try:
        ok, _ = host.file("move", source=str(tree), target=str(target))
        assert ok["entry"]["type"] == "dir"
        assert not tree.exists()
        assert (target / "sub/f").read_text() == "x\n"
        assert stat.S_IMODE((target / "sub/f").stat().st_mode) == 0o640
        assert (target / "sub").stat().st_mtime == 1000
        assert (target / "link").readlink() == Path("sub/f")
        assert stat.S_ISFIFO((target / "fifo").lstat().st_mode)
        host.file("move", source=str(target / "sub/f"), target=str(place / "f"))
        assert (place / "f").read_text() == "x\n"
        assert [p.name for p in shared.iterdir() if p.name.startswith(".move-")] == []
    finally:
        host.file("remove", path=str(target))
    assert not target.exists()


def test_remove(host: Host, place: Path) -> None:
    place.joinpath("kept").mkdir()
    place.joinpath("kept/f").touch()
    place.joinpath("tree/link").parent.mkdir()
    place.joinpath("tree/link").symlink_to(place / "kept")
    place.joinpath("tree/broken").symlink_to("nowhere")
    place.joinpath("link").symlink_to(place / "kept")
    if ROOT:
        for path in (place, *place.rglob("*")):
            os.lchown(path, UID, UID)
    host.file("remove", path=str(place / "tree"))
    host.file("remove", path=str(place / "link"))
    assert sorted(p.name for p in place.rglob("*")) == ["f", "kept"]


def test_remove_3000_nested_directories(host: Host, place: Path) -> None:
    script = "import os\nfor _ in range(3000):\n os.mkdir('d'); os.chdir('d'); open('f', 'w')"
    host.shell(f'cd {place} && /usr/bin/python3 -c "{script}"')
    host.file("remove", path=str(place / "d"))
    assert list(place.iterdir()) == []


def test_remove_a_wide_tree(host: Host, place: Path) -> None:
    script = (
        "import os\nfor i in range(5000):\n os.mkdir(str(i)); open(f'{i}/f', 'w')\n"
        "for i in range(5000): open(f'file{i}', 'w')"
    )
    wide = place / "wide"
    host.shell(f'mkdir {wide} && cd {wide} && /usr/bin/python3 -c "{script}"')
    host.file("remove", path=str(wide))
    assert list(place.iterdir()) == []


def test_remove_what_may_not_be_removed(host: Host, place: Path) -> None:
    if not ROOT:
        pytest.skip("only root can make it")
    place.joinpath("tree/sub").mkdir(parents=True)
    place.joinpath("tree/sub/f").touch()
    assert host.file_refusal("remove", path=str(place / "tree")) == "file_access_denied"
    assert place.joinpath("tree/sub/f").exists()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_remove_a_directory_of_a_million_entries(host: Host) -> None:
    script = "import os\nfor i in range(1000000): os.close(os.open(str(i), os.O_CREAT))"
    wide = f"/dev/shm/wide-{os.getpid()}"
    with pipe() as (out, inner):
        argv = ["/bin/sh", "-c", f'mkdir {wide} && cd {wide} && /usr/bin/python3 -c "{script}"']
        request = {"argv": argv, "user": USER, "fds": {"1": 0}}
        host.socket.settimeout(200)
        pid = host.request("start", (inner,), **request)["pid"]
        os.close(inner)
        assert host.exit_of(pid)["status"] == 0
        assert os.read(out, 1) == b""
    with pipe() as (out, inner):
        request = {"do": "remove", "path": wide, "user": USER, "fds": {"out": 0}}
        host.request("file", (inner,), **request)
        os.close(inner)
        assert select.select([out], [], [], 200)[0]
        assert os.read(out, 100) == b'{"ok":{}}\n'
    assert not Path(wide).exists()
