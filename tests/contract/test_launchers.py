"""Every launcher keeps the contract."""

from __future__ import annotations

import itertools
import os
import pwd
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from atoll.engine import Engine
from atoll.model import LauncherUnavailable, Template, WallUnavailable
from atoll.testing.contract import Case, Subject, cases_for
from atoll.testing.fitting import unheld_limits
from atoll.testing.leaks import adopt_orphans, scratch_directory

# Names our owners apart from those of whoever else uses Atoll on this machine.
OWNERS = f"contract-{secrets.token_hex(4)}"

PYTHON = "/usr/bin/python3"

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def data_dir() -> Iterator[Path]:
    with adopt_orphans(), scratch_directory() as path:
        yield path


def _maker(launcher: str, data_dir: Path) -> Callable[[], Engine]:
    numbers = itertools.count()

    def make() -> Engine:
        owner = f"{OWNERS}-{launcher}-{next(numbers)}"
        return Engine(launcher=launcher, data_dir=data_dir, owner=owner)

    return make


@pytest.fixture(scope="module", params=["namespaces", "bubblewrap"])
async def walled(request: pytest.FixtureRequest, data_dir: Path) -> AsyncIterator[Subject]:
    make = _maker(request.param, data_dir)

    try:
        async with make() as engine:
            unheld = await unheld_limits(engine, "base")
            yield Subject(engine, make, data_dir, OWNERS, unheld=unheld)
    except (LauncherUnavailable, WallUnavailable) as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
async def unwalled(data_dir: Path) -> AsyncIterator[Subject]:
    home = data_dir / "home"
    home.mkdir(mode=0o777, exist_ok=True)
    home.chmod(0o777)
    # As root not root's own: a login shell would run the profile of whoever runs the tests.
    account = "nobody" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name
    template = Template("host", (), user=account, cwd=str(home), python=PYTHON)

    make = _maker("fake", data_dir)

    async with make() as engine:
        yield Subject(engine, make, data_dir, OWNERS, template, PYTHON, str(home))


@pytest.mark.parametrize("case", cases_for(walls=True), ids=lambda case: case.name)
async def test_a_launcher_with_walls(walled: Subject, case: Case) -> None:
    if missing := case.needs & walled.unheld:
        pytest.skip(f"this machine cannot hold the limit {', '.join(sorted(missing))} here")
    await case.run(walled)


@pytest.mark.parametrize("case", cases_for(walls=False), ids=lambda case: case.name)
async def test_the_launcher_without_walls(unwalled: Subject, case: Case) -> None:
    await case.run(unwalled)
