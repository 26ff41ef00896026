"""The launcher bubblewrap as an ordinary account: with sub-ids, and with one id only.

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
from atoll.launch.bubblewrap_ids import SUBID_FILES, sub_range
from atoll.model import LauncherUnavailable

HERE = Path(__file__).parent
PATHS = [HERE, Path(atoll.__file__).parents[1], Path(anyio.__file__).parents[1]]
SECONDS = 50


def account_with_sub_ids() -> pwd.struct_passwd | None:
    """This account if it has sub-ids; as root any other that has."""
    if os.geteuid() != 0:
        candidates = [pwd.getpwuid(os.getuid())]
    else:
        candidates = [entry for entry in pwd.getpwall() if entry.pw_uid != 0]
    for entry in candidates:
        if all(sub_range(path, entry.pw_uid, entry.pw_name) for path in SUBID_FILES):
            return entry
    return None


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


def seen(kind: str, directory: Path) -> dict[str, Any]:
    """What the run saw as an account of this kind."""
    try:
        find()
    except LauncherUnavailable as error:
        pytest.skip(str(error))
    account = account_with_sub_ids() if kind == "sub-ids" else pwd.getpwnam("nobody")
    if account is None or (kind == "sub-ids" and shutil.which("newuidmap") is None):
        pytest.skip("no account with sub-ids, or no newuidmap")
    if os.geteuid() == 0:
        os.chown(directory, account.pw_uid, account.pw_gid)
    done = run_as(account, str(HERE / "ordinary_run.py"), str(directory), kind)
    if "cannot be made: the kernel refused a user namespace" in done.stderr:
        pytest.skip("this kernel gives ordinary accounts no user namespaces")
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@pytest.mark.parametrize("kind", ["single", "sub-ids"])
def test_an_ordinary_account_builds_the_same_walls(kind: str, directory: Path) -> None:
    result = seen(kind, directory)
    assert result["holes"] == []
    assert result["id"] == [0, "1000\n1000\n"]
    assert {line.split()[1] for line in result["status"].splitlines()} == {"0" * 16}
    assert result["handed"] == [0, "mine"]
    assert result["refused"] == 0
    assert "No space left" in result["full"]
    assert result["terminal"].split() == ["24", "80", "again"]
    assert result["alive"] is False
    if kind == "single":
        assert result["map"] == ["1000", str(result["uid"]), "1"]
        assert "unknown_user" in result["root"]
        # The sandbox's user is the account itself, so what it writes is the account's.
        assert result["out"] == [0, "1000\n"]
    else:
        assert result["map"][0] == "0" and len(result["map"]) == 6
        assert result["root"] == [0, "0\n"]
        assert "cannot be handed in writable" in result["out"]


def test_limits_that_need_a_cgroup_are_refused_without_one(directory: Path) -> None:
    result = seen("single", directory)
    if "limits" not in result:
        pytest.skip("this account has a cgroup of its own")
    assert result["limits"].startswith("limit_unavailable: ")
