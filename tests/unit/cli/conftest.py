"""The `atoll` command as a user starts it, with a data directory of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from command_line import COMMAND, Atoll


@pytest.fixture(scope="session")
def atoll_environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What every call of the command gets."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("ATOLL_")}
    data_dir = tmp_path_factory.mktemp("cli-data")
    return {**inherited, "ATOLL_DATA_DIR": str(data_dir), "NO_COLOR": "1"}


@pytest.fixture(scope="session")
def atoll(atoll_environment: dict[str, str]) -> Atoll:
    """Runs the command to its end."""

    def call(
        *arguments: str,
        stdin: bytes = b"",
        cwd: Path | None = None,
        prefix: Sequence[str] = (),
    ) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [*prefix, *COMMAND, *arguments],
            input=stdin,
            capture_output=True,
            env=atoll_environment,
            cwd=cwd,
            timeout=50,
        )

    return call


@pytest.fixture(scope="session")
def lifted(atoll: Atoll) -> tuple[str, ...]:
    """The limits that this account cannot have here; skips where it can make no sandbox."""
    tried = atoll("run", "--json", "--template", "base", "--language", "bash", "-c", "exit 0")
    error = json.loads(tried.stdout).get("error")
    if error is None:
        return ()
    if error["code"] != "limit_unavailable":
        pytest.skip(error["message"])
    return tuple(re.findall(r"--([a-z-]+) none", error["hint"]))


@pytest.fixture(scope="session")
def base(lifted: tuple[str, ...]) -> tuple[str, ...]:
    """Options of a command that makes a sandbox: `base`, without the limits it cannot have."""
    return ("--template", "base", *(word for name in lifted for word in (f"--{name}", "none")))
