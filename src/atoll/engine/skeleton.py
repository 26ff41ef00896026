"""The top layer of every root, and the skeleton of the roots that come from this machine.

Ownership: built by root, `/home/user` belongs to uid 1000 on disk, which the launcher's idmapped
mount makes `user`. Built by an ordinary account everything belongs to that account: where it can
map only its own uid, the launcher gives `user` a home of the sandbox's own.
"""

from __future__ import annotations

import compileall
import os
import py_compile
import stat
import subprocess
import sys
from pathlib import Path

from atoll.engine.skeleton_files import COPIED_FROM_ETC, OWN_FILES, USER_ID
from atoll.engine.skeleton_plan import Plan
from atoll.engine.skeleton_private import hiding_layer, is_open
from atoll.engine.templates_store import build_once
from atoll.model import GUEST_DIRECTORY, Layer, TemplateError

SYSTEM_PYTHON = Path("/usr/bin/python3")
"""The interpreter of the machine that a machine-derived template sees at the same path."""

MOUNT_POINTS: dict[str, int] = {
    "dev": 0o755,
    "proc": 0o555,
    "sys": 0o555,
    "tmp": 0o1777,
    "run": 0o755,
    "home": 0o755,
    "home/user": 0o755,
}
"""Directories that every root needs, with their modes."""

_SYSTEM_DIRECTORIES: dict[str, int] = {
    "etc": 0o755,
    "usr": 0o755,
    "opt": 0o755,
    "srv": 0o755,
    "mnt": 0o755,
    "media": 0o755,
    "boot": 0o755,
    "var": 0o755,
    "var/tmp": 0o1777,
    "var/log": 0o755,
    "var/cache": 0o755,
    "var/cache/man": 0o755,
    "var/lib": 0o755,
    "var/lib/misc": 0o755,
    "var/local": 0o755,
    "var/mail": 0o755,
    "var/opt": 0o755,
    "var/spool": 0o755,
}

# hier(7): what may be a link into /usr, or a directory of its own on an unmerged system.
_PROGRAM_DIRECTORIES = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_VISIBLE = ("/usr/", "/opt/", "/etc/", "/bin/", "/sbin/", "/lib/", "/lib32/", "/lib64/")


def atoll_layer(parent: Path, extra: Plan | None = None) -> Path:
    """The directory that lies on top of every root: the guest's files, and mount points.

    Args:
        parent: where layers are kept.
        extra: more for this root, such as a passwd with `user` in it.

    Raises:
        TemplateError: it cannot be written.
    """
    plan = _merged(_guest_plan(), extra or Plan())
    tags = {sys.implementation.cache_tag: sys.executable} | _system_cache_tag()
    digest = f"{plan.digest()}-{'-'.join(sorted(tags))}"

    def fill(root: Path) -> None:
        plan.write(root)
        _precompile(root, tags)

    return build_once(parent, f"atoll-{digest}", fill)


def machine_skeleton(parent: Path, machine: Path = Path("/")) -> Path:
    """The root directory of machine-derived templates: own /etc, empty /var, homes, mount points.

    Raises:
        TemplateError: it cannot be written, or the machine keeps its programs in unusual places.
    """
    if not (machine / "usr/lib").is_dir():
        raise TemplateError(
            f"{machine / 'usr/lib'} is not a directory: this machine keeps its programs elsewhere",
            hint="use a root file system of your own: Template.from_rootfs(path)",
        )
    plan = _machine_plan(machine)
    return build_once(parent, f"skeleton-{plan.digest()}", plan.write)


def machine_layers(parent: Path, machine: Path = Path("/")) -> tuple[Layer, ...]:
    """The machine's own program directories: /usr, /opt if it holds anything, unmerged /bin etc.

    What not every account may read is hidden, as it is now; see `skeleton_private`.
    """
    names = ["usr"] + [name for name in _PROGRAM_DIRECTORIES if _is_directory(machine / name)]
    opt = machine / "opt"
    if _is_directory(opt) and is_open(opt) and any(opt.iterdir()):
        names.append("opt")
    return tuple(
        Layer(f"/{name}", (*hiding_layer(parent, machine, name), machine / name)) for name in names
    )


def _guest_plan() -> Plan:
    source = Path(__file__).parents[1] / "guest"
    inside = f"{GUEST_DIRECTORY.lstrip('/')}/atoll/guest"
    files: dict[str, tuple[bytes | Path, int]] = {
        f"{inside}/{path.relative_to(source)}": (path.read_bytes(), 0o644)
        for path in sorted(source.rglob("*"))
        if path.is_file() and path.suffix != ".pyc"
    }
    mount_points = dict(MOUNT_POINTS)
    return Plan(
        directories={GUEST_DIRECTORY.lstrip("/"): 0o755, **mount_points},
        files=files,
        owners={"home/user": USER_ID},
    )


def _machine_plan(machine: Path) -> Plan:
    # An ordinary account's files are nobody's inside: a closed directory would be closed to all.
    root_home = 0o700 if os.geteuid() == 0 else 0o755
    plan = Plan(
        directories={**MOUNT_POINTS, **_SYSTEM_DIRECTORIES, "root": root_home},
        files={f"etc/{name}": (text.encode(), mode) for name, (text, mode) in OWN_FILES.items()},
        links={"var/run": "/run", "var/lock": "/run/lock", "etc/mtab": "/proc/self/mounts"},
        owners={"home/user": USER_ID},
    )
    for name in _PROGRAM_DIRECTORIES:
        path = machine / name
        if path.is_symlink():
            plan.links[name] = str(path.readlink())
        elif path.is_dir():
            plan.directories[name] = 0o755
    for pattern in COPIED_FROM_ETC:
        for path in (machine / "etc").glob(pattern):
            _add_copy(plan, path, machine)
    return plan


def _add_copy(plan: Plan, path: Path, machine: Path) -> None:
    """Add a file, link or tree of /etc: only what every account may read, and no dead link."""
    name = str(path.relative_to(machine))
    if name in plan.files or not path.exists():
        return
    mode = path.lstat().st_mode
    if stat.S_ISLNK(mode):
        if _stays_visible(path, machine):
            plan.links[name] = str(path.readlink())
    elif not mode & stat.S_IROTH:
        return
    elif stat.S_ISREG(mode):
        plan.files[name] = (path, 0o755 if mode & stat.S_IXUSR else 0o644)
    elif stat.S_ISDIR(mode):
        plan.directories[name] = 0o755
        for child in sorted(path.iterdir()):
            _add_copy(plan, child, machine)


def _stays_visible(link: Path, machine: Path) -> bool:
    """True if what the link leads to is in the template too."""
    real = link.resolve()
    if machine in real.parents:
        real = Path("/") / real.relative_to(machine)
    if Path("/etc") in real.parents:
        return any(
            ancestor.match(f"/etc/{pattern}")
            for ancestor in (real, *real.parents)
            for pattern in COPIED_FROM_ETC
        )
    return str(real).startswith(_VISIBLE)


def _is_directory(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _merged(first: Plan, second: Plan) -> Plan:
    return Plan(
        {**first.directories, **second.directories},
        {**first.files, **second.files},
        {**first.links, **second.links},
        {**first.owners, **second.owners},
    )


def _system_cache_tag() -> dict[str, str]:
    """The byte code name of the system's Python, read from its file name (PEP 3147)."""
    if not SYSTEM_PYTHON.exists():
        return {}
    name = SYSTEM_PYTHON.resolve().name
    return {f"cpython-{name.removeprefix('python').replace('.', '')}": str(SYSTEM_PYTHON)}


def _precompile(root: Path, tags: dict[str, str]) -> None:
    """Byte code for the interpreters that will run the guest; the directory is read-only inside.

    Unchecked hashes: the layer never changes, so no file's time need be looked at.
    """
    target = root / GUEST_DIRECTORY.lstrip("/")
    unchecked = py_compile.PycInvalidationMode.UNCHECKED_HASH
    for tag, python in tags.items():
        if tag == sys.implementation.cache_tag:
            compileall.compile_dir(
                target, quiet=2, stripdir=str(root), prependdir="/", invalidation_mode=unchecked
            )
            continue
        command = [python, "-I", "-m", "compileall", "-qq", "-s", str(root), "-p", "/"]
        # Some other version's missing byte code costs a few milliseconds and nothing else.
        subprocess.run(
            [*command, "--invalidation-mode", "unchecked-hash", str(target)], check=False
        )
