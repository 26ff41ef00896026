"""Interpreters to run contexts on, and contexts as plain processes of this machine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from contexts_kit import (
    OpenContext,
    opened,
    python_command,
    scientific_environment,
    system_node,
    wheel_node,
)

INSTALL_SECONDS = 600


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The first test that needs the environment may have to install it."""
    for item in items:
        if "scientific" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.timeout(INSTALL_SECONDS))


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def guest_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a sandbox sees as /.atoll: the guest's source and nothing else of ours."""
    root = tmp_path_factory.mktemp("guest")
    (root / "atoll").mkdir()
    source = Path(__file__).parents[3] / "src/atoll/guest"
    (root / "atoll/guest").symlink_to(source)
    return root


@pytest.fixture(scope="session")
def scientific() -> Path:
    """A virtual environment with IPython, numpy, pandas, matplotlib, and so on."""
    return scientific_environment()


@pytest.fixture
async def open_context() -> AsyncIterator[OpenContext]:
    """Starts contexts; they are gone at the end of the test."""
    async with AsyncExitStack() as stack:

        async def start(
            argv: list[str],
            *,
            output_limit: int | None = 1 << 20,
            grace: float = 3.0,
            cwd: Path | None = None,
            env: dict[str, str] | None = None,
        ) -> object:
            context = opened(argv, output_limit=output_limit, grace=grace, cwd=cwd, env=env)
            return await stack.enter_async_context(context)

        yield start  # type: ignore[misc]


@pytest.fixture(params=["plain", "ipython"])
def python(request: pytest.FixtureRequest, guest_root: Path) -> list[str]:
    """The command of a Python context: on this interpreter alone, and on IPython."""
    if request.param == "plain":
        return python_command(guest_root, "--plain")
    environment: Path = request.getfixturevalue("scientific")
    return python_command(guest_root, interpreter=environment / "bin/python")


@pytest.fixture
def ipython(scientific: Path, guest_root: Path) -> list[str]:
    """The command of a Python context on IPython."""
    return python_command(guest_root, interpreter=scientific / "bin/python")


@pytest.fixture
def bash(guest_root: Path) -> list[str]:
    """The command of a Bash context."""
    program = (
        f"import sys; sys.path.insert(0, {str(guest_root)!r}); "
        "from atoll.guest import dispositions; dispositions.reset(); "
        "from atoll.guest.contexts import bash; bash.serve(3)"
    )
    return [python_command(guest_root)[0], "-I", "-c", program]


@pytest.fixture(params=["system", "wheel"])
def node(request: pytest.FixtureRequest, guest_root: Path) -> list[str]:
    """The command of a JavaScript context: this machine's Node.js, and a current one."""
    if request.param == "system":
        found = system_node()
        if found is None:
            pytest.skip("this machine has no node")
    else:
        found = wheel_node(request.getfixturevalue("scientific"))
    return [str(found), str(guest_root / "atoll/guest/contexts/node_runner.mjs")]
