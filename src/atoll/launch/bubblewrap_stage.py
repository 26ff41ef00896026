"""The stage: all that bwrap mounts for one sandbox, laid out in a mount namespace nobody else has.

One tmpfs at /tmp, under which are the template's lower directories (l0, l1, ...), the runtime, the
caller's mounts (m0, m1, ...), `rw` for the uppers of the overlays, and `shm`. As root, lowers are
idmapped to the sandbox's own ids and read-only, and locked so by bwrap's copy of the namespace,
which belongs to another user namespace (mount_namespaces(7)).

Runs in a fork of the builder: trusted, with rights over the mounts. Interpreter's modules only.
"""

from __future__ import annotations

import os
import stat
from typing import Any

from atoll.launch.linux import syscalls
from atoll.launch.linux.guest_rights import OWN_DIRECTORIES

_OWN_FLAGS = syscalls.MS_NOSUID | syscalls.MS_NODEV


def lay_out(stage: str, request: dict[str, Any], inner: int, owners: list[int]) -> None:
    """Mount everything. In this process's mount namespace, which must be its own.

    Args:
        stage: an existing directory; it is covered.
        request: the builder's request (`bubblewrap_builder`).
        inner: descriptor of the sandbox's user namespace.
        owners: for each mount the descriptor of its id map; as root only.
    """
    idmap = inner if request["idmap"] else 0
    trees: list[tuple[str, int]] = []
    for number, path in enumerate(request["lowers"]):
        trees.append((f"l{number}", _read_only(path, idmap)))
    trees.append(("runtime", _read_only(request["runtime"], idmap)))
    for number, mount in enumerate(request["mounts"]):
        trees.append((f"m{number}", _handed_in(mount, owners[number] if idmap else 0)))
    syscalls.mount("tmpfs", stage, "tmpfs", _OWN_FLAGS, "mode=755,size=1m,nr_inodes=1k")
    for name, tree in trees:
        _attach(tree, f"{stage}/{name}")
    _writable(stage, request)


def _read_only(path: str, idmap: int) -> int:
    # Without an idmap the tree may have mounts below that belong to the host and are locked.
    tree = syscalls.open_tree(path, recursive=not idmap)
    flags = syscalls.MOUNT_ATTR_RDONLY | syscalls.MOUNT_ATTR_NODEV | syscalls.MOUNT_ATTR_NOSUID
    _set(tree, flags, idmap)
    return tree


def _handed_in(mount: dict[str, Any], owner: int) -> int:
    if mount["read_only"]:
        return _read_only(mount["source"], owner)
    tree = syscalls.open_tree(mount["source"], recursive=not owner)
    _set(tree, syscalls.MOUNT_ATTR_NODEV | syscalls.MOUNT_ATTR_NOSUID, owner)
    return tree


def _set(tree: int, flags: int, idmap: int) -> None:
    try:
        if idmap:
            flags |= syscalls.MOUNT_ATTR_IDMAP
        syscalls.mount_setattr(tree, flags, idmap, recursive=not idmap)
    except OSError:
        os.close(tree)
        raise


def _attach(tree: int, place: str) -> None:
    if stat.S_ISDIR(os.fstat(tree).st_mode):
        os.mkdir(place, 0o755)
    else:
        os.close(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    syscalls.move_mount(tree, place)
    os.close(tree)


def _writable(stage: str, request: dict[str, Any]) -> None:
    root = request["owners"]["root"]
    options = f"mode=755,size={request['disk']},nr_inodes={request['inodes']}"
    os.mkdir(f"{stage}/rw", 0o755)
    syscalls.mount("tmpfs", f"{stage}/rw", "tmpfs", _OWN_FLAGS, options)
    for number, lowers in enumerate(request["layers"]):
        for name in (f"{number}u", f"{number}w"):
            _directory(f"{stage}/rw/{name}", stat.S_IMODE(os.stat(lowers[0]).st_mode), root)
    if not request["idmap"]:
        _own_directories(f"{stage}/rw/0u", request["layers"][0], request["owners"])
    os.mkdir(f"{stage}/shm", 0o755)
    options = f"mode=1777,size={request['shm']},nr_inodes=16k,uid={root},gid={root}"
    flags = _OWN_FLAGS | syscalls.MS_NOEXEC
    syscalls.mount("tmpfs", f"{stage}/shm", "tmpfs", flags, options)


def _own_directories(upper: str, lowers: list[str], owners: dict[str, int]) -> None:
    for path, mode, owner in OWN_DIRECTORIES:
        kinds = [_kind(f"{lower}/{path}") for lower in lowers]
        there = next((kind for kind in kinds if kind), stat.S_IFDIR)
        if there == stat.S_IFDIR and os.path.isdir(os.path.dirname(f"{upper}/{path}")):
            _directory(f"{upper}/{path}", mode, owners[owner])


def _kind(path: str) -> int:
    try:
        return stat.S_IFMT(os.lstat(path).st_mode)
    except FileNotFoundError:
        return 0


def _directory(path: str, mode: int, owner: int) -> None:
    os.mkdir(path, 0o700)
    os.chown(path, owner, owner)
    os.chmod(path, mode)
