"""Root file systems for the tests: a Debian one, and one of another layout without Python."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

DEBIAN = "bookworm"


def debian_tree(cache: Path, *packages: str) -> Path:
    """Debian with Python and `packages`, as mmdebstrap makes it; made once."""
    tree = cache / "-".join(["debian", DEBIAN, *packages])
    if tree.is_dir():
        return tree
    if os.geteuid() != 0:
        pytest.skip("only root can make a Debian tree with its accounts")
    if not shutil.which("mmdebstrap"):
        pytest.skip("mmdebstrap is not installed")
    work = cache / f".debian-{DEBIAN}-{os.getpid()}"
    include = ",".join(["python3", *packages])
    command = ["mmdebstrap", "--variant=minbase", f"--include={include}", DEBIAN, str(work)]
    made = subprocess.run(command, capture_output=True, text=True, timeout=240)
    if made.returncode:
        shutil.rmtree(work, ignore_errors=True)
        pytest.skip(f"mmdebstrap failed (offline?): {made.stderr.splitlines()[-1:]}")
    work.rename(tree)
    return tree


def debian_package(cache: Path, name: str) -> Path:
    """A directory with the .deb of a small package."""
    directory = cache / f"package-{name}"
    if not list(directory.glob("*.deb")):
        directory.mkdir(exist_ok=True)
        command = ["apt-get", "download", name]
        got = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=120)
        if got.returncode:
            pytest.skip(f"apt-get download {name} failed: {got.stderr.strip()}")
    return directory


def busybox_tree(root: Path) -> Path:
    """/bin is a directory of its own, every program is busybox, and there is no /usr/lib."""
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("busybox-static is not installed")
    for name in ("bin", "etc", "usr/bin", "var/tmp"):
        (root / name).mkdir(parents=True)
    shutil.copy(busybox, root / "bin/busybox")
    names = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True)
    for name in names.stdout.split():
        if name != "busybox":
            (root / "bin" / name).symlink_to("/bin/busybox")
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\n")
    return root
