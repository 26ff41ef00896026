"""Contexts forked from a warmed zygote: nothing random is shared, and they are quick."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from contexts_kit import CONTROL_FD, control_descriptor

from atoll.engine.contexts import ContextClient

pytestmark = pytest.mark.anyio

FORKS = 4
ZYGOTE = Path(__file__).with_name("zygote.py")
HEAVY = ["numpy", "pandas", "matplotlib.pyplot", "ssl", "uuid", "cryptography", "threadpoolctl"]

DRAWS = {
    "random": "import random\nrandom.random()",
    "os.urandom": "import os\nos.urandom(8)",
    "uuid4": "import uuid\nuuid.uuid4()",
    "uuid1": "import uuid\nuuid.uuid1().hex",
    "secrets": "import secrets\nsecrets.token_hex(8)",
    "ssl": "import ssl\nssl.RAND_bytes(8)",
    "tempfile": "import tempfile\ntempfile.mktemp()",
}
HEAVY_DRAWS = DRAWS | {
    "numpy": "import numpy\nnumpy.random.random()",
    "default_rng": "import numpy\nnumpy.random.default_rng().random()",
    "cryptography": (
        "from cryptography.hazmat.primitives.asymmetric import ec\n"
        "ec.generate_private_key(ec.SECP256R1()).private_numbers().private_value"
    ),
}


class Zygote:
    """The zygote's process and the way to it."""

    def __init__(self, argv: list[str], stack: AsyncExitStack) -> None:
        self._socket, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._stack = stack
        self.process = subprocess.Popen(
            argv,
            pass_fds=(CONTROL_FD,),
            preexec_fn=control_descriptor(far.fileno()),
            start_new_session=True,
        )
        far.close()
        stack.callback(self._end)
        self.threads = int(self._socket.recv(16) or b"0")

    def fork(self) -> ContextClient:
        """A context, to which nothing has been sent yet."""
        control, far = socket.socketpair()
        out, out_far = os.pipe()
        err, err_far = os.pipe()
        socket.send_fds(self._socket, [b"x"], [far.fileno(), out_far, err_far])
        far.close()
        os.close(out_far)
        os.close(err_far)

        async def interrupt() -> None:
            return None

        client = ContextClient(control, out, err, interrupt=interrupt)
        self._stack.push_async_callback(client.close)
        return client

    def _end(self) -> None:
        self._socket.close()
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


def in_own_pid_namespace() -> list[str]:
    """A command prefix that makes the program process 1, or a skip where nothing can."""
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("there is no unshare command")
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    prefix = [unshare, *user, "--pid", "--fork", "--mount-proc"]
    if subprocess.run([*prefix, "true"], capture_output=True).returncode != 0:
        pytest.skip("this account cannot make pid namespaces")
    return prefix


async def drawn(zygote: Zygote, draws: dict[str, str]) -> dict[str, set[str]]:
    """What each generator says in each of the forks."""
    found: dict[str, set[str]] = {name: set() for name in draws}
    for client in [zygote.fork() for _ in range(FORKS)]:
        for name, code in draws.items():
            execution = await client.run(code)
            assert execution.error is None, execution.error
            found[name].add(str(execution.text))
    return found


async def test_nothing_random_is_shared_by_plain_forks(
    guest_root: Path, stack: AsyncExitStack
) -> None:
    argv = [sys.executable, "-I", str(ZYGOTE), str(guest_root), "0", "--plain", "ssl", "uuid"]
    zygote = Zygote(argv, stack)
    assert zygote.threads == 1
    for name, values in (await drawn(zygote, DRAWS)).items():
        assert len(values) == FORKS, name


async def test_nothing_random_is_shared_by_heavy_forks_of_one_pid(
    guest_root: Path, scientific: Path, stack: AsyncExitStack
) -> None:
    python = str(scientific / "bin/python")
    argv = [*in_own_pid_namespace(), python, "-I", str(ZYGOTE), str(guest_root), "1", *HEAVY]
    zygote = Zygote(argv, stack)
    assert zygote.threads == 1
    for name, values in (await drawn(zygote, HEAVY_DRAWS)).items():
        assert len(values) == FORKS, name


async def test_what_would_end_a_program_by_a_signal_is_an_error_of_the_cell(
    guest_root: Path, tmp_path: Path, stack: AsyncExitStack
) -> None:
    zygote = Zygote([sys.executable, "-I", str(ZYGOTE), str(guest_root), "0", "--plain"], stack)
    client = zygote.fork()
    unread = "import os\nread, write = os.pipe()\nos.close(read)\nos.write(write, b'x')"
    large = (
        "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (9, 9))\n"
        f"open({str(tmp_path / 'large')!r}, 'wb', 0).truncate(10)"
    )
    for code, name in ((unread, "BrokenPipeError"), (large, "OSError")):
        error = (await client.run(code)).error
        assert error is not None
        assert error.name == name
    code = "import subprocess\nsubprocess.run('yes | head -n 1', shell=True).returncode"
    assert (await client.run(code)).text == "0"


async def test_forks_know_nothing_of_the_rehearsal(
    guest_root: Path, scientific: Path, stack: AsyncExitStack
) -> None:
    python = str(scientific / "bin/python")
    zygote = Zygote([python, "-I", str(ZYGOTE), str(guest_root), "0", *HEAVY], stack)
    client = zygote.fork()
    names = await client.run("[n for n in dir() if not n.startswith('_')]")
    assert names.execution_count == 1
    assert names.text is not None
    assert set(names.text.strip("[]").replace("'", "").split(", ")) <= {
        "In", "Out", "get_ipython", "open",
    }  # fmt: skip
    assert (await client.run("In[:1], Out")).text == "([''], {1: " + names.text + "})"
    figures = await client.run("import matplotlib.pyplot as plt\nplt.get_fignums()")
    assert figures.text == "[]"
    last = await client.run("import sys\nhasattr(sys, 'last_value')")
    assert last.text == "False"


async def test_libraries_get_their_threads_back(
    guest_root: Path, scientific: Path, stack: AsyncExitStack
) -> None:
    python = str(scientific / "bin/python")
    zygote = Zygote([python, "-I", str(ZYGOTE), str(guest_root), "0", *HEAVY], stack)
    client = zygote.fork()
    code = (
        "import os, threadpoolctl\n"
        "{p['num_threads'] for p in threadpoolctl.threadpool_info()} == "
        "{len(os.sched_getaffinity(0))}, [n for n in os.environ if 'NUM_THREADS' in n]"
    )
    assert (await client.run(code)).text == "(True, [])"


async def test_a_fork_and_its_cells_are_quick(
    guest_root: Path, stack: AsyncExitStack, record_property: Callable[[str, object], None]
) -> None:
    """Far above what is measured (2 ms and 0.2 ms), so that only a new slow path fails."""
    zygote = Zygote([sys.executable, "-I", str(ZYGOTE), str(guest_root), "0", "--plain"], stack)
    first, hot = [], []
    for _ in range(20):
        client = zygote.fork()
        start = time.perf_counter()
        assert (await client.run("1 + 1")).text == "2"
        first.append(time.perf_counter() - start)
        for _ in range(10):
            start = time.perf_counter()
            await client.run("1 + 1")
            hot.append(time.perf_counter() - start)
    record_property("first_cell_ms", statistics.median(first) * 1e3)
    record_property("hot_cell_ms", statistics.median(hot) * 1e3)
    assert statistics.median(first) < 0.02
    assert statistics.median(hot) < 0.003
