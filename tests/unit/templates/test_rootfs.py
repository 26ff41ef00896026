"""Templates from a directory: what is found in it, and that nothing in it leads outside."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import anyio
import pytest

from atoll.engine.rootfs import completed, resolve_inside, scan
from atoll.engine.templates import Templates
from atoll.model import Template, TemplateError


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree of another layout: /bin is a directory of its own, no Python."""
    root = tmp_path / "Tree 1"
    for name in ("bin", "etc", "usr/bin", "dev"):
        (root / name).mkdir(parents=True)
    (root / "bin/busybox").write_text("x")
    (root / "bin/busybox").chmod(0o755)
    (root / "bin/sh").symlink_to("/bin/busybox")
    (root / "etc/passwd").write_text(
        "root:x:0:0:root:/root:/bin/sh\nubuntu:x:1000:1000::/home/u:\n"
    )
    return root


def template_of(path: Path, layers: Path) -> Template:
    return completed(Template.from_rootfs(path), layers)


def program(root: Path, path: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text("x")
    (root / path).chmod(0o755)


def test_a_tree_without_python_has_no_interpreters(tmp_path: Path, tree: Path) -> None:
    template = template_of(tree, tmp_path / "layers")
    assert (template.python, template.node, template.preload) == (None, None, ())
    assert template.layers[0].lowers[1] == tree
    assert template.name.startswith("tree-1-")


def test_user_is_the_first_name_of_its_uid(tmp_path: Path, tree: Path) -> None:
    template = template_of(tree, tmp_path / "layers")
    lines = (template.layers[0].lowers[0] / "etc/passwd").read_text().splitlines()
    assert [line.split(":")[0] for line in lines] == ["root", "user", "ubuntu"]
    assert lines[1].endswith(":/home/user:/bin/sh")


def test_an_existing_user_is_left_alone(tmp_path: Path, tree: Path) -> None:
    (tree / "etc/passwd").write_text(
        "root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/x\n"
    )
    (tree / "etc/group").write_text("root:x:0:\nuser:x:1000:\n")
    template = template_of(tree, tmp_path / "layers")
    assert not (template.layers[0].lowers[0] / "etc").exists()


def test_mount_points_are_made_where_the_tree_has_links(tmp_path: Path, tree: Path) -> None:
    (tree / "tmp").symlink_to("/var/tmp")
    template = template_of(tree, tmp_path / "layers")
    top = template.layers[0].lowers[0]
    assert all((top / name).is_dir() for name in ("tmp", "dev", "proc", "sys", "run", "home/user"))


def test_interpreters_are_found_through_links_inside_the_tree(tmp_path: Path, tree: Path) -> None:
    program(tree, "opt/py/bin/python3.12")
    (tree / "usr/bin/python3").symlink_to("/opt/py/bin/python3.12")
    program(tree, "usr/bin/node")
    template = template_of(tree, tmp_path / "layers")
    assert (template.python, template.node) == ("/usr/bin/python3", "/usr/bin/node")


@pytest.mark.parametrize("name", ["python3.7", "python3.6"])
def test_a_python_too_old_for_cells_is_not_offered(tmp_path: Path, tree: Path, name: str) -> None:
    program(tree, f"usr/bin/{name}")
    (tree / "usr/bin/python3").symlink_to(name)
    assert template_of(tree, tmp_path / "layers").python is None


def test_a_python_without_its_library_is_not_offered(tmp_path: Path, tree: Path) -> None:
    program(tree, "usr/bin/python3.11")
    (tree / "usr/bin/python3").symlink_to("python3.11")
    (tree / "usr/lib/python3.11").mkdir(parents=True)
    assert template_of(tree, tmp_path / "layers").python is None


def test_links_cannot_lead_out_of_the_tree(tmp_path: Path, tree: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    for number, target in enumerate(("../../secret", f"{tmp_path}/secret", "/../../secret")):
        (tree / f"etc/link{number}").symlink_to(target)
        assert resolve_inside(tree, f"/etc/link{number}") is None
    (tree / "etc/loop").symlink_to("/etc/loop")
    assert resolve_inside(tree, "/etc/loop") is None
    assert resolve_inside(tree, "/../../bin/sh") == tree / "bin/busybox"


def test_a_passwd_that_is_a_link_outside_is_not_read(tmp_path: Path, tree: Path) -> None:
    (tmp_path / "secret").write_text("stolen:x:7:7:::\n")
    (tree / "etc/passwd").unlink()
    (tree / "etc/passwd").symlink_to(tmp_path / "secret")
    template = template_of(tree, tmp_path / "layers")
    assert "stolen" not in (template.layers[0].lowers[0] / "etc/passwd").read_text()


def test_sockets_are_refused_by_name(tmp_path: Path, tree: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        before = Path.cwd()
        os.chdir(tree / "etc")
        try:
            listener.bind("docker.sock")
        finally:
            os.chdir(before)
    with pytest.raises(TemplateError, match=r"1 socket \(/etc/docker.sock\)"):
        template_of(tree, tmp_path / "layers")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make device files")
def test_devices_are_refused_outside_dev(tmp_path: Path, tree: Path) -> None:
    os.mknod(tree / "dev/null", 0o020666, os.makedev(1, 3))
    template_of(tree, tmp_path / "layers")
    os.mknod(tree / "etc/sda", 0o060666, os.makedev(8, 0))
    with pytest.raises(TemplateError, match="1 device"):
        template_of(tree, tmp_path / "layers")


def test_setuid_files_are_listed(tree: Path) -> None:
    (tree / "bin/busybox").chmod(0o4755)
    assert scan(tree).setuid == ["/bin/busybox"]


def test_bad_roots_are_refused(tmp_path: Path) -> None:
    for path, message in ((tmp_path / "none", "not a directory"), (Path("/"), "template base")):
        with pytest.raises(TemplateError, match=message):
            template_of(path, tmp_path / "layers")
    with pytest.raises(TemplateError, match="no /bin/sh"):
        template_of(tmp_path, tmp_path / "layers")


def test_what_the_caller_says_is_kept(tmp_path: Path, tree: Path) -> None:
    asked = Template.from_rootfs(str(tree), name="mine", env={"LANG": "C"}, preload=("json",))
    template = completed(asked, tmp_path / "layers")
    assert (template.name, template.env["LANG"], template.preload) == ("mine", "C", ("json",))
    assert template.env["PATH"].startswith("/usr/local/sbin")


def test_a_tree_is_looked_at_once(tmp_path: Path, tree: Path) -> None:
    templates = Templates(tmp_path / "data")
    asked = Template.from_rootfs(tree)
    first = anyio.run(templates.resolve, asked)
    assert anyio.run(templates.resolve, asked) is first
    templates.add(asked)
    assert anyio.run(templates.get, asked.name) is first
