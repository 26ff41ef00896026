"""Removes trees that belong to an ordinary account's sub-ids: as the root of a user namespace.

The account itself may not remove what its sub-ids own. In a user namespace that maps them
(newuidmap(1)) it is root over all of them, and over nothing else.
"""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from atoll.model import OwnerError

_SECONDS = 600.0
_HINT = "remove it with sudo"
_INSIDE = """
import ctypes, os, sys
from pathlib import Path
from atoll.engine.trees import remove_tree
if ctypes.CDLL(None, use_errno=True).unshare(0x10000000):
    sys.exit(f"unshare: {os.strerror(ctypes.get_errno())}")
print("made", flush=True)
sys.stdin.readline()
os.setresgid(0, 0, 0)
os.setresuid(0, 0, 0)
for tree in sys.argv[1:]:
    remove_tree(Path(tree))
"""


def remove_as_subids(trees: Sequence[Path]) -> None:
    """Remove `trees` as root over this account's own id and its sub-ids.

    Raises:
        OwnerError: the account has no sub-ids, or the kernel or newuidmap refused.
    """
    lines = {name: _map_lines(name) for name in ("uid", "gid")}
    child = subprocess.Popen(
        [sys.executable, "-c", _INSIDE, *map(os.fspath, trees)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with child:
        assert child.stdout is not None
        if child.stdout.readline() == "made\n":
            for name, words in lines.items():
                _map(name, child.pid, words)
        try:
            _, said = child.communicate("go\n", timeout=_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            raise OwnerError("removing took too long", hint=_HINT) from None
    if child.returncode != 0:
        last = said.strip().splitlines()[-1:] or ["no reason was given"]
        raise OwnerError(f"what sub-ids own cannot be removed: {last[0]}", hint=_HINT)


def _map_lines(name: str) -> list[str]:
    own = os.getuid() if name == "uid" else os.getgid()
    account = pwd.getpwuid(os.getuid()).pw_name
    words = ["0", str(own), "1"]
    inside = 1
    for line in _read(Path(f"/etc/sub{name}")):
        who, _, numbers = line.partition(":")
        start, _, count = numbers.partition(":")
        if who in (account, str(os.getuid())) and start.isdigit() and count.isdigit():
            words += [str(inside), start, count]
            inside += int(count)
    if inside == 1:
        raise OwnerError(
            f"files of other ids are left, and /etc/sub{name} gives this account none", hint=_HINT
        )
    return words


def _read(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def _map(name: str, pid: int, words: list[str]) -> None:
    done = subprocess.run(
        [f"/usr/bin/new{name}map", str(pid), *words], capture_output=True, text=True
    )
    if done.returncode != 0:
        raise OwnerError(f"new{name}map refused: {done.stderr.strip()}", hint=_HINT)
