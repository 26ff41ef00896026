"""What the examples take for granted: the default template is built."""

from __future__ import annotations

import anyio
import pytest

from atoll import Engine
from atoll.model import IsolationError


@pytest.fixture(scope="session")
def built_template() -> None:
    """Build it, or skip where this machine can make no sandbox at all."""

    async def build() -> None:
        async with Engine() as engine:
            await engine.templates.build("code-interpreter")
            try:
                await (await engine.create("base")).kill()
            except IsolationError as error:
                pytest.skip(str(error))

    anyio.run(build)
