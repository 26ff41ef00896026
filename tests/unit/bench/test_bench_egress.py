"""The rows of the egress proxy: real connections, the same for every way."""

from __future__ import annotations

import pytest

from atoll.bench.egress import egress_rows
from atoll.bench.targets import TARGETS

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_bytes_and_connections_are_measured_beside_the_straight_way() -> None:
    rows, peers = await egress_rows(size=1 << 20, rounds=5)

    assert [row.key for row in rows] == ["egress_bytes", "egress_connect"]
    assert {row.key for row in rows} <= set(TARGETS)
    assert {"direct_bytes", "direct_connect", "socat_bytes"} <= {row.key for row in peers}
    assert all(row.summary is not None and row.summary.minimum > 0 for row in rows)
    assert "direct_connect" in rows[1].beside
