"""What a launcher makes is destroyed once, also where it could not be finished."""

from __future__ import annotations

import anyio
import pytest

from atoll.launch.alive import Alive, EndsOnce

pytestmark = pytest.mark.anyio


class Box(EndsOnce):
    """A sandbox whose end takes until `may_end` is set."""

    def __init__(self, alive: Alive[Box]) -> None:
        super().__init__(lambda: alive.discard(self))
        self.ends = 0
        self.may_end = anyio.Event()

    async def _end(self) -> None:
        self.ends += 1
        await self.may_end.wait()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def alive() -> Alive[Box]:
    return Alive()


async def test_it_ends_once_and_whoever_asks_again_waits(alive: Alive[Box]) -> None:
    box = Box(alive)
    async with alive.adding(box), anyio.create_task_group() as tasks:
        tasks.start_soon(box.destroy)
        tasks.start_soon(box.destroy)
        await anyio.wait_all_tasks_blocked()
        assert (box.ends, list(alive)) == (1, [box])
        box.may_end.set()
    assert (box.ends, list(alive)) == (1, [])
    await box.destroy()


async def test_one_that_does_not_start_is_destroyed(alive: Alive[Box]) -> None:
    box = Box(alive)
    box.may_end.set()
    with pytest.raises(RuntimeError, match="no start"):
        async with alive.adding(box):
            raise RuntimeError("no start")
    assert (box.ends, list(alive)) == (1, [])


async def test_a_cancelled_start_is_destroyed_to_its_end(alive: Alive[Box]) -> None:
    box = Box(alive)

    async def start() -> None:
        async with alive.adding(box):
            await anyio.sleep_forever()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(start)
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
        with anyio.CancelScope(shield=True):
            await anyio.wait_all_tasks_blocked()
            assert list(alive) == [box], "its end is waited for"
            box.may_end.set()
    assert (box.ends, list(alive)) == (1, [])


async def test_all_are_destroyed_together(alive: Alive[Box]) -> None:
    boxes = [Box(alive) for _ in range(3)]
    for box in boxes:
        box.may_end.set()
        async with alive.adding(box):
            pass
    await alive.destroy()
    assert ([box.ends for box in boxes], list(alive)) == ([1, 1, 1], [])
