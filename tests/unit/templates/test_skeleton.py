"""What the roots of machine-derived templates hold, and what they must never hold."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from atoll.engine.skeleton import atoll_layer, machine_layers, machine_skeleton
from atoll.engine.skeleton_plan import Plan
from atoll.engine.templates_store import build_once
from atoll.model import TemplateError


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A small machine with a merged /usr, secrets, and links into hidden places."""
    root = tmp_path / "machine"
    for name in (
        "usr/bin",
        "usr/lib",
        "etc/ssl/certs",
        "etc/ssl/private",
        "etc/alternatives",
        "srv",
    ):
        (root / name).mkdir(parents=True)
    (root / "bin").symlink_to("usr/bin")
    (root / "lib64").mkdir()
    (root / "usr/bin/mawk").write_text("x")
    (root / "etc/alternatives/awk").symlink_to(root / "usr/bin/mawk")
    (root / "srv/hidden").write_text("hidden")
    (root / "etc/alternatives/hidden").symlink_to(root / "srv/hidden")
    (root / "etc/alternatives/dead").symlink_to("nowhere")
    (root / "etc/ssl/private/key.pem").write_text("secret")
    (root / "etc/ssl/certs/ca.pem").write_text("public")
    (root / "etc/ssl/certs/closed.pem").write_text("secret")
    (root / "etc/ssl/certs/closed.pem").chmod(0o640)
    (root / "etc/shadow").write_text("root:$y$secret:1::::::\n")
    (root / "etc/passwd").write_text("alice:x:1000:1000::/home/alice:/bin/sh\n")
    (root / "etc/services").write_text("ssh 22/tcp\n")
    (root / "etc/services").chmod(0o4755)
    return root


def read(root: Path, name: str) -> str:
    return (root / "etc" / name).read_text()


def test_accounts_are_atolls_own(tmp_path: Path, machine: Path) -> None:
    skeleton = machine_skeleton(tmp_path / "layers", machine)
    assert "alice" not in read(skeleton, "passwd")
    assert "user:x:1000:1000::/home/user:" in read(skeleton, "passwd")
    assert all(line.split(":")[1] == "!" for line in read(skeleton, "shadow").splitlines())


def test_only_the_stated_part_of_etc_is_copied(tmp_path: Path, machine: Path) -> None:
    skeleton = machine_skeleton(tmp_path / "layers", machine)
    assert read(skeleton, "ssl/certs/ca.pem") == "public"
    assert not (skeleton / "etc/ssl/private").exists()
    assert not (skeleton / "etc/ssl/certs/closed.pem").exists()
    assert not any("secret" in f.read_text() for f in skeleton.rglob("*") if f.is_file())


def test_links_into_hidden_places_are_left_out(tmp_path: Path, machine: Path) -> None:
    skeleton = machine_skeleton(tmp_path / "layers", machine)
    links = sorted(link.name for link in (skeleton / "etc/alternatives").iterdir())
    assert links == ["awk"]


def test_program_directories_are_as_on_the_machine(tmp_path: Path, machine: Path) -> None:
    skeleton = machine_skeleton(tmp_path / "layers", machine)
    assert (skeleton / "bin").readlink() == Path("usr/bin")
    assert (skeleton / "lib64").is_dir()
    assert [layer.mountpoint for layer in machine_layers(tmp_path / "layers", machine)] == [
        "/usr",
        "/lib64",
    ]


def test_modes_do_not_depend_on_the_umask_and_no_setuid_bit_survives(
    tmp_path: Path, machine: Path
) -> None:
    before = os.umask(0o077)
    try:
        skeleton = machine_skeleton(tmp_path / "layers", machine)
    finally:
        os.umask(before)
    modes = {name: stat.S_IMODE((skeleton / name).stat().st_mode) for name in (
        ".", "etc", "etc/ssl", "etc/passwd", "etc/shadow", "tmp", "var/tmp", "root", "etc/services"
    )}  # fmt: skip
    assert modes == {
        ".": 0o755,
        "etc": 0o755,
        "etc/ssl": 0o755,
        "etc/passwd": 0o644,
        "etc/shadow": 0o640,
        "tmp": 0o1777,
        "var/tmp": 0o1777,
        "root": 0o700 if os.geteuid() == 0 else 0o755,
        "etc/services": 0o755,
    }


def test_a_changed_machine_gets_another_skeleton(tmp_path: Path, machine: Path) -> None:
    first = machine_skeleton(tmp_path / "layers", machine)
    assert machine_skeleton(tmp_path / "layers", machine) == first
    (machine / "etc/services").write_text("http 80/tcp\n")
    assert machine_skeleton(tmp_path / "layers", machine) != first
    assert first.is_dir()


def test_layers_are_closed_to_other_accounts(tmp_path: Path, machine: Path) -> None:
    machine_skeleton(tmp_path / "layers", machine)
    assert stat.S_IMODE((tmp_path / "layers").stat().st_mode) == 0o700


def test_the_guest_is_there_with_its_byte_code(tmp_path: Path) -> None:
    layer = atoll_layer(tmp_path / "layers")
    guest = layer / ".atoll/atoll/guest"
    sources = list(guest.rglob("*.py"))
    compiled = {path.name.split(".")[0] for path in guest.rglob("*.pyc")}
    assert sources
    assert compiled >= {path.stem for path in sources}
    assert not (layer / ".atoll/atoll/__init__.py").exists(), "only the guest, nothing of the host"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_the_home_belongs_to_user(tmp_path: Path, machine: Path) -> None:
    skeleton = machine_skeleton(tmp_path / "layers", machine)
    assert (skeleton / "home/user").stat().st_uid == 1000


def test_a_machine_without_usr_lib_is_refused_with_a_way_out(tmp_path: Path) -> None:
    with pytest.raises(TemplateError, match="from_rootfs"):
        machine_skeleton(tmp_path / "layers", tmp_path)


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    def fill(work: Path) -> None:
        (work / "half").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_once(tmp_path / "layers", "key", fill)
    assert [p.name for p in (tmp_path / "layers").iterdir()] == [".lock-key"]


def test_what_a_killed_builder_left_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "layers/.unfinished-key").mkdir(parents=True)
    (tmp_path / "layers/.unfinished-key/half").write_text("half")
    built = build_once(tmp_path / "layers", "key", lambda work: None)
    assert list(built.iterdir()) == []


def test_a_full_disk_is_said_as_such(tmp_path: Path) -> None:
    def fill(work: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(TemplateError, match=r"is full .*\n.*ATOLL_DATA_DIR"):
        build_once(tmp_path / "layers", "key", fill)


def test_an_unwritable_directory_is_said_as_such(tmp_path: Path) -> None:
    def fill(work: Path) -> None:
        raise PermissionError(13, "Permission denied")

    with pytest.raises(TemplateError, match="ATOLL_DATA_DIR"):
        build_once(tmp_path / "layers", "key", fill)


def test_a_plan_is_the_same_wherever_it_is_written(tmp_path: Path) -> None:
    plan = Plan(directories={"a": 0o700}, files={"a/b": (b"c", 0o600)}, links={"d": "a/b"})
    plan.write(build_once(tmp_path, "x", lambda work: None))
    assert (tmp_path / "x/d").read_text() == "c"
    assert plan.digest() == Plan(plan.directories, plan.files, plan.links).digest()


def test_what_others_may_not_read_is_hidden(tmp_path: Path, machine: Path) -> None:
    for name in ("opt/app/conf", "opt/closed", "usr/local/bin"):
        (machine / name).mkdir(parents=True)
    (machine / "opt/app/conf/key").write_text("secret")
    (machine / "opt/app/conf/key").chmod(0o600)
    (machine / "opt/app/conf/public").write_text("public")
    (machine / "opt/closed/key").write_text("secret")
    (machine / "opt/closed").chmod(0o700)
    (machine / "opt/app").chmod(0o775)
    layers = {layer.mountpoint: layer for layer in machine_layers(tmp_path / "layers", machine)}
    assert layers["/usr"].lowers == (machine / "usr",)
    hidden, shown = layers["/opt"].lowers
    assert shown == machine / "opt"
    assert sorted(str(p.relative_to(hidden)) for p in hidden.rglob("*")) == [
        "app",
        "app/conf",
        "app/conf/key",
        "closed",
    ]
    for whiteout in (hidden / "app/conf/key", hidden / "closed"):
        status = whiteout.lstat()
        assert (stat.S_ISCHR(status.st_mode), status.st_rdev) == (True, 0)
    assert stat.S_IMODE((hidden / "app").stat().st_mode) == 0o775


def test_a_closed_opt_is_left_out_and_a_closed_local_is_hidden(
    tmp_path: Path, machine: Path
) -> None:
    for name in ("opt/app", "usr/local/bin"):
        (machine / name).mkdir(parents=True)
    (machine / "opt").chmod(0o700)
    (machine / "usr/local").chmod(0o750)
    layers = {layer.mountpoint: layer for layer in machine_layers(tmp_path / "layers", machine)}
    assert "/opt" not in layers
    assert [p.name for p in layers["/usr"].lowers[0].iterdir()] == ["local"]
