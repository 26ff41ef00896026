"""Engines over launchers with walls, and servers of the host for their sandboxes."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from network_kit import Ground, name_server, web_server

from atoll.engine import Engine
from atoll.model import LauncherUnavailable, NetworkPolicy, WallUnavailable
from atoll.testing.fitting import fitting, unheld_limits
from atoll.testing.leaks import adopt_orphans, scratch_directory


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def data_dir() -> Iterator[Path]:
    with adopt_orphans(), scratch_directory() as path:
        yield path


@pytest.fixture(scope="module", params=["namespaces", "bubblewrap"])
async def ground(request: pytest.FixtureRequest, data_dir: Path) -> AsyncIterator[Ground]:
    owner = f"network-{secrets.token_hex(4)}"
    try:
        async with Engine(launcher=request.param, data_dir=data_dir, owner=owner) as engine:
            limits = fitting(None, await unheld_limits(engine, "base"))
            await engine.warm("base", limits)
            yield Ground(engine, limits)
    except (LauncherUnavailable, WallUnavailable) as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def names() -> Iterator[str]:
    """A name server of the host's."""
    with name_server({"shop.test": "127.0.0.1", "other.test": "127.0.0.1"}) as address:
        yield address


@pytest.fixture(scope="module")
def page() -> Iterator[int]:
    """The port of a web server on the host's loopback."""
    with web_server() as port:
        yield port


@pytest.fixture(scope="module")
def policy(names: str) -> NetworkPolicy:
    """One shop is open, which lies at an address that is opened by name."""
    return NetworkPolicy(
        allow_internet_access=False, allow_out=("shop.test", "127.0.0.1"), dns_servers=(names,)
    )
