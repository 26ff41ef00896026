"""The launcher bubblewrap as an ordinary account: with sub-ids, and without.

As root, the tests become another account for it; otherwise they are one already.
"""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

import atoll
from atoll.launch.bubblewrap_find import find
from atoll.launch.linux import walls_probe
from atoll.launch.linux.identities import FEWEST_SUB_IDS
from atoll.launch.linux.sub_ids import FILES, largest, map_tools
from atoll.model import LauncherUnavailable

HERE = Path(__file__).parent
PATHS = [HERE, Path(atoll.__file__).parents[1], Path(anyio.__file__).parents[1]]
SECONDS = 50


def account(*, sub_ids: bool) -> pwd.struct_passwd:
    """This account, as root any other, if it has sub-ids or has none; skips if there is no such."""
    everybody = [entry for entry in pwd.getpwall() if entry.pw_uid != 0]
    candidates = everybody if os.geteuid() == 0 else [pwd.getpwuid(os.getuid())]
    for entry in candidates:
        if all(largest(path, entry.pw_uid)[1] >= FEWEST_SUB_IDS for path in FILES) is sub_ids:
            return entry
    pytest.skip(f"no ordinary account {'with' if sub_ids else 'without'} sub-ids")


def run_as(account: pwd.struct_passwd, *words: str) -> subprocess.CompletedProcess[str]:
    """This suite's code in another interpreter that the account may enter."""
    ours = Path(sys.executable)
    system = shutil.which(f"python3.{sys.version_info.minor}", path="/usr/local/bin:/usr/bin")
    environment = {"PYTHONPATH": ":".join(map(str, PATHS)), "PYTHONDONTWRITEBYTECODE": "1"}
    as_account: dict[str, Any] = {"env": environment | {"PATH": os.defpath}}
    if os.geteuid() == 0:
        as_account |= {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    for python in (ours, *([Path(system)] if system else [])):
        probe = [str(python), "-c", "import atoll.engine.templates"]
        try:
            if subprocess.run(probe, **as_account, check=False, cwd="/").returncode == 0:
                return subprocess.run(
                    [str(python), *words],
                    **as_account,
                    check=False,
                    capture_output=True,
                    text=True,
                    cwd="/",
                    timeout=SECONDS,
                )
        except PermissionError:
            continue
    pytest.skip(f"no interpreter here that {account.pw_name} may enter")


@pytest.fixture
def directory() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="atoll-ordinary-"))
    yield path
    shutil.rmtree(path)


def seen(who: pwd.struct_passwd, directory: Path) -> dict[str, Any]:
    """What the run saw as this account."""
    try:
        find()
    except LauncherUnavailable as error:
        pytest.skip(str(error))
    if reason := walls_probe.run()["user namespace"]:
        pytest.skip(f"this kernel gives accounts no user namespaces: {reason}")
    if os.geteuid() == 0:
        os.chown(directory, who.pw_uid, who.pw_gid)
    done = run_as(who, str(HERE / "ordinary_run.py"), str(directory))
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_an_ordinary_account_builds_the_same_walls(directory: Path) -> None:
    if not map_tools():
        pytest.skip("no newuidmap")
    result = seen(account(sub_ids=True), directory)
    assert result["holes"] == []
    assert result["id"] == [0, "1000\n1000\n"]
    assert {line.split()[1] for line in result["status"].splitlines()} == {"0" * 16}
    assert result["handed"] == [0, "mine"]
    assert result["refused"] == 0
    assert "No space left" in result["full"]
    assert result["terminal"].split() == ["24", "80", "again"]
    assert result["alive"] is False
    assert result["map"][0] == "0" and len(result["map"]) == 9
    assert result["root"] == [0, "0\n"]
    assert "cannot be handed in writable" in result["out"]
    if "limits" in result:  # else the account has a cgroup of its own
        assert result["limits"].startswith("limit_unavailable: ")


def test_an_account_without_sub_ids_is_refused_with_the_fix(directory: Path) -> None:
    who = account(sub_ids=False)
    refusal = seen(who, directory)["error"]
    assert refusal.startswith("wall_unavailable: the wall 'own ids' cannot be built here")
    assert (
        f"usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {who.pw_name}" in refusal
    )
