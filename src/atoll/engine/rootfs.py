"""Templates from any directory that holds a root file system.

Every path of the tree is followed inside the tree: an absolute link in it starts at its own root,
and `..` cannot leave it (path_resolution(7), as chroot(2) would have it).
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from atoll.engine.skeleton import MOUNT_POINTS, atoll_layer
from atoll.engine.skeleton_files import USER_ID
from atoll.engine.skeleton_plan import Plan
from atoll.model import Layer, Template, TemplateError

_LINKS = 40  # path_resolution(7): more than 40 links in one path is ELOOP.
_PROGRAM_DIRECTORIES = ("/usr/local/bin", "/usr/bin", "/bin", "/opt/atoll/python/bin")
_SHELLS = ("/bin/bash", "/usr/bin/bash", "/bin/sh")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Findings:
    """What a tree holds that a template should not.

    Attributes:
        sockets: unix sockets, whose listener would be a process of this machine.
        devices: device files outside /dev, which the sandbox's own /dev does not cover.
        setuid: set-user-id and set-group-id files; they gain nothing inside (no_new_privs).
    """

    sockets: list[str] = field(default_factory=list)
    devices: list[str] = field(default_factory=list)
    setuid: list[str] = field(default_factory=list)


def completed(template: Template, layers: Path) -> Template:
    """The template with its root, from the directory that `Template.from_rootfs` was given.

    Args:
        template: what the caller asked for; what it says itself is kept.
        layers: where the data directory keeps layers.

    Raises:
        TemplateError: it is no root file system, or holds sockets or devices.
    """
    root = template.rootfs
    assert root is not None
    _check_root(root)
    findings = scan(root)
    if findings.sockets or findings.devices:
        raise TemplateError(
            f"{root} holds {_listed(findings.sockets, 'socket')}"
            f"{_listed(findings.devices, 'device')}that must not be seen inside",
            hint="remove them from the tree (find TREE -type s -delete)",
        )
    top = atoll_layer(layers, _users_plan(root))
    return replace(
        template,
        layers=(Layer("/", (top, root)),),
        env={"PATH": _PATH, "LANG": "C.UTF-8", **template.env},
        python=template.python or _python(root),
        node=template.node or _program(root, "node"),
    )


def scan(root: Path) -> Findings:
    """Walk the tree, following no link, and list what a template should not hold."""
    found = Findings()
    for entry, mode in _walk(root):
        inside = f"/{Path(entry).relative_to(root)}"
        if stat.S_ISSOCK(mode):
            found.sockets.append(inside)
        elif stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
            if not inside.startswith("/dev/"):
                found.devices.append(inside)
        elif stat.S_ISREG(mode) and mode & (stat.S_ISUID | stat.S_ISGID):
            found.setuid.append(inside)
    return found


def resolve_inside(root: Path, path: str) -> Path | None:
    """Where on this machine `path` of the tree is, every link followed inside the tree.

    None if nothing is there.
    """
    pending = [part for part in path.split("/") if part][::-1]
    here: list[str] = []
    links = 0
    while pending:
        part = pending.pop()
        if part == ".":
            continue
        if part == "..":
            here = here[:-1]
            continue
        place = root.joinpath(*here, part)
        try:
            mode = place.lstat().st_mode
        except OSError:
            return None
        if not stat.S_ISLNK(mode):
            here.append(part)
            continue
        links += 1
        if links > _LINKS:
            return None
        target = str(place.readlink())
        here = [] if target.startswith("/") else here
        pending += [step for step in target.split("/") if step][::-1]
    return root.joinpath(*here)


def _check_root(root: Path) -> None:
    if not root.is_dir():
        raise TemplateError(f"{root} is not a directory")
    if root.resolve() == Path("/"):
        raise TemplateError(
            "/ is this machine's own root, with everybody's files in it",
            hint="use the template base, which shows the machine's programs only",
        )
    if not any(resolve_inside(root, shell) for shell in _SHELLS):
        raise TemplateError(
            f"{root} is no root file system: it has no /bin/sh",
            hint="name the directory that holds bin, etc and usr",
        )
    for directory in ("etc", ".atoll"):
        if (root / directory).is_symlink():
            raise TemplateError(f"/{directory} of {root} is a link; it must be a directory")


def _walk(root: Path) -> Iterator[tuple[str, int]]:
    pending = [str(root)]
    while pending:
        directory = pending.pop()
        try:
            with os.scandir(directory) as entries:
                for entry in entries:
                    mode = entry.stat(follow_symlinks=False).st_mode
                    yield entry.path, mode
                    if stat.S_ISDIR(mode):
                        pending.append(entry.path)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.ENOENT):
                raise
            # What the builder may not read, a sandbox of this account cannot read either.


def _listed(paths: list[str], kind: str) -> str:
    if not paths:
        return ""
    more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
    return f"{len(paths)} {kind}{'s' if len(paths) > 1 else ''} ({', '.join(paths[:3])}{more}) "


def _users_plan(root: Path) -> Plan:
    """The tree's passwd and group with `user` put in, where it has none with uid 1000."""
    shell = next((s for s in _SHELLS if resolve_inside(root, s)), "/bin/sh")
    user = f"user:x:{USER_ID}:{USER_ID}::/home/user:{shell}"
    files: dict[str, tuple[bytes | Path, int]] = {}
    additions = {"passwd": (user, f"root:x:0:0:root:/root:{shell}")}
    additions["group"] = (f"user:x:{USER_ID}:", "root:x:0:")
    for name, (line, root_line) in additions.items():
        lines = _read_lines(root, f"/etc/{name}") or [root_line]
        if not any(re.match(rf"user:[^:]*:{USER_ID}:", old) for old in lines):
            kept = [old for old in lines if not old.startswith("user:")]
            # After root and before any other account with this uid: the first one names it.
            kept.insert(1, line)
            files[f"etc/{name}"] = ("\n".join([*kept, ""]).encode(), 0o644)
    directories = {"etc": 0o755} if files else {}
    if not os.path.lexists(root / "root"):
        directories["root"] = 0o700
    return Plan(directories={**MOUNT_POINTS, **directories}, files=files)


def _read_lines(root: Path, path: str) -> list[str]:
    place = resolve_inside(root, path)
    if place is None or not place.is_file():
        return []
    return [line for line in place.read_text(errors="replace").splitlines() if line]


def _program(root: Path, name: str) -> str | None:
    for directory in _PROGRAM_DIRECTORIES:
        place = resolve_inside(root, f"{directory}/{name}")
        if place is not None and place.is_file() and place.stat().st_mode & stat.S_IXUSR:
            return f"{directory}/{name}"
    return None


def _python(root: Path) -> str | None:
    """A Python that can run contexts: 3.8 or later, with the standard library whole."""
    for name in ("python3", *(f"python3.{minor}" for minor in range(20, 7, -1))):
        program = _program(root, name)
        place = resolve_inside(root, program) if program else None
        if place is None:
            continue
        version = re.fullmatch(r"python3\.(\d+)", place.name)
        library = place.parent.parent / "lib" / place.name
        # python3-minimal of Debian has an interpreter and no json.
        whole = not library.is_dir() or (library / "json").is_dir()
        if whole and (version is None or int(version[1]) >= 8):
            return program
    return None
