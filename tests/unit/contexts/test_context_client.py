"""The host's side of a context: order, limits, cancellation, and contexts that lie."""

from __future__ import annotations

import fcntl
import functools
import operator
import os
import struct
import termios
from collections.abc import AsyncIterator
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from hostile_context import READY, Played, done, error, result

from atoll.engine.cell import CellCallbacks
from atoll.engine.context_frames import FRAME_LIMIT
from atoll.engine.contexts import ContextEnded
from atoll.model import (
    ContextDied,
    ExecutionError,
    GuestBroken,
    InvalidArgument,
    KilledBy,
    Result,
    TimedOut,
)
from atoll.testing.waiting import eventually

pytestmark = pytest.mark.anyio


def unread(pipe: int) -> int:
    """Bytes that lie in a pipe (pipe(7))."""
    return int(struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)))[0])


@pytest.fixture
async def played() -> AsyncIterator[Played]:
    context = Played()
    yield context
    await context.close()


async def test_ready_says_the_pid(played: Played) -> None:
    played.say(READY)
    assert await played.client.ready() == 7
    assert await played.client.ready() == 7


async def test_a_context_that_is_never_ready(played: Played) -> None:
    with pytest.raises(TimedOut):
        await played.client.ready(0.05)


async def test_a_context_that_ends_before_it_is_ready(played: Played) -> None:
    played.control.close()
    with pytest.raises(ContextDied):
        await played.client.ready()


async def test_a_run_need_not_wait_for_ready(played: Played) -> None:
    played.say(READY, result(1), done(1))
    execution = await played.client.run("code", env={"A": "b"}, cwd="/", silent=True)
    assert execution.text == "x"
    assert played.heard() == {
        "op": "run", "id": 1, "code": "code", "env": {"A": "b"}, "cwd": "/", "silent": True,
    }  # fmt: skip


async def test_callbacks_in_the_order_of_what_happened(played: Played) -> None:
    seen: list[Any] = []

    async def slow(value: Any) -> None:
        await anyio.sleep(0.01)
        seen.append(value)

    os.write(played.stdout, "é".encode()[:1])
    played.say(READY)
    await played.client.ready()
    os.write(played.stdout, "é".encode()[1:] + b"out")
    os.write(played.stderr, b"err\xff")
    played.say(result(1, "shown", main=False), error(1), done(1))
    callbacks = CellCallbacks(slow, seen.append, slow, seen.append)
    execution = await played.client.run("", callbacks=callbacks)
    told = ExecutionError("E", "v", "t")
    assert sorted(map(str, seen[:-2])) == ["err\N{REPLACEMENT CHARACTER}", "éout"]
    assert seen[-2:] == [Result({"text/plain": "shown"}), told]
    assert execution.logs.stdout == ["éout"]
    assert execution.error == told
    assert execution.execution_count == 1


async def test_output_between_cells_belongs_to_the_next(played: Played) -> None:
    played.say(READY, done(1))
    await played.client.run("")
    for number in range(3):
        os.write(played.stdout, bytes(str(number), "ascii") * 50_000)
        await eventually(lambda: unread(played.stdout) == 0)
    played.say(done(2))
    text = "".join((await played.client.run("")).logs.stdout)
    # Only the last 64 KiB are kept.
    assert text.endswith("2" * 50_000)
    assert len(text) <= 115_536


async def test_one_cell_at_a_time_in_order(played: Played) -> None:
    played.say(READY)
    order: list[int | None] = []

    async def run() -> None:
        order.append((await played.client.run("")).execution_count)

    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(run)
        for number in (1, 2, 3):
            await eventually(functools.partial(operator.eq, order, list(range(1, number))))
            played.say(done(number))
    assert order == [1, 2, 3]


async def test_too_much_output(played: Played) -> None:
    played.say(READY)

    async def flood() -> None:
        while played.interrupts == 0:
            try:
                os.write(played.stdout, b"x" * 4096)
            except BlockingIOError:
                await anyio.lowlevel.checkpoint()
        played.say(done(1))

    os.set_blocking(played.stdout, False)
    async with anyio.create_task_group() as group:
        group.start_soon(flood)
        execution = await played.client.run("")
    assert execution.killed_by is KilledBy.OUTPUT
    assert execution.error is not None
    assert execution.error.name == "OutputLimitReached"
    assert sum(map(len, execution.logs.stdout)) == 1 << 20
    assert len(execution.logs.stdout) < 2000
    assert played.client.alive


async def test_too_many_results_are_too_much_output(played: Played) -> None:
    played.say(READY)
    body = "x" * (30 << 20)

    async def flood() -> None:
        def show() -> None:
            for _ in range(6):
                played.say(result(1, body))

        await anyio.to_thread.run_sync(show)

    async with anyio.create_task_group() as group:
        group.start_soon(flood)
        execution = await played.client.run("")
    assert execution.killed_by is KilledBy.OUTPUT
    assert len(execution.results) == 4


async def test_a_timeout_without_an_end_must_be_killed(played: Played) -> None:
    played.say(READY)
    os.write(played.stdout, b"before")
    execution = await played.client.run("", timeout=0.05)
    assert execution.killed_by is KilledBy.WALL
    assert execution.logs.stdout == ["before"]
    assert execution.error is not None
    assert "killed" in execution.error.value
    assert played.interrupts >= 1
    assert played.client.must_kill
    with pytest.raises(ContextDied):
        await played.client.run("")


async def test_a_context_that_still_starts_is_not_interrupted() -> None:
    played = Played(grace=30)

    async def run() -> None:
        execution = await played.client.run("", timeout=0.01)
        assert execution.killed_by is KilledBy.WALL

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        await anyio.sleep(0.03)
        group.start_soon(played.client.interrupt)
        await anyio.sleep(0.03)
        assert played.interrupts == 0
        played.say(READY)
        await played.interrupted.wait()
        played.say(done(1))
    assert played.client.alive
    await played.close()


async def test_only_the_cell_after_an_interrupted_one_is_told_of_it(played: Played) -> None:
    played.say(READY)
    for number in (1, 2, 3):
        async with anyio.create_task_group() as group:
            group.start_soon(played.client.run, "")
            await anyio.wait_all_tasks_blocked()
            assert ("late" in played.heard()) is (number == 2)
            if number == 1:
                await played.client.interrupt()
            played.say(done(number))
    await played.client.interrupt()
    assert played.interrupts == 1


async def test_a_cancelled_run_interrupts_the_cell(played: Played) -> None:
    played.say(READY)
    async with anyio.create_task_group() as group:

        async def end() -> None:
            await played.interrupted.wait()
            played.say(error(1), done(1))

        group.start_soon(end)
        with anyio.move_on_after(0.02) as scope:
            await played.client.run("")
    assert scope.cancelled_caught
    played.say(done(2))
    assert (await played.client.run("")).execution_count == 2


async def test_a_callback_that_raises_ends_the_cell(played: Played) -> None:
    played.say(READY, result(1))

    def broken(result: Result) -> None:
        played.say(done(1))
        raise RuntimeError("callback")

    with pytest.raises(RuntimeError, match="callback"):
        await played.client.run("", callbacks=CellCallbacks(on_result=broken))
    assert played.client.alive


async def test_a_context_that_ends_in_a_cell(played: Played) -> None:
    played.say(READY, result(1))
    os.write(played.stdout, b"last")
    played.control.close()
    with pytest.raises(ContextEnded) as raised:
        await played.client.run("")
    assert raised.value.execution.logs.stdout == ["last"]
    assert raised.value.execution.text == "x"
    with pytest.raises(ContextDied):
        await played.client.run("")


async def test_close_ends_a_running_cell(played: Played) -> None:
    played.say(READY)
    async with anyio.create_task_group() as group:

        async def run() -> None:
            with pytest.raises(ContextDied):
                await played.client.run("")

        group.start_soon(run)
        await anyio.wait_all_tasks_blocked()
        await played.client.close()
    await played.client.close()


@pytest.mark.parametrize(
    "arguments",
    [
        {"code": b"bytes"},
        {"code": "x" * (FRAME_LIMIT + 1)},
        {"code": "é" * (FRAME_LIMIT // 4)},
        {"code": "", "env": {"a=b": "c"}},
        {"code": "", "env": {"a": "\0"}},
        {"code": "", "env": {"": ""}},
        {"code": "", "env": {"a": 1}},
        {"code": "", "cwd": ""},
        {"code": "", "cwd": "a\0"},
    ],
)
async def test_what_can_never_be_sent(played: Played, arguments: dict[str, Any]) -> None:
    played.say(READY)
    await played.client.ready()
    with pytest.raises(InvalidArgument):
        await played.client.run(**arguments)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"junk",
        b"\xff\xfe",
        b"[]",
        b"null",
        b"{}",
        b'{"event":"done"}',
        b'{"event":"done","id":2,"count":1}',
        b'{"event":"done","id":1,"count":-1}',
        b'{"event":"done","id":true,"count":1}',
        b'{"event":"done","id":1,"count":1e400}',
        b'{"event":"done","id":1,"count":NaN}',
        b'{"event":"ready","pid":1}',
        b'{"event":"result","id":1,"data":[],"main":true}',
        b'{"event":"result","id":1,"data":{"text/plain":5},"main":true}',
        b'{"event":"result","id":1,"data":{},"main":1}',
        b'{"event":"error","id":1,"name":"E","value":"v","traceback":"t"}',
        b'{"event":"error","id":1,"name":1,"value":"v","traceback":"t","frames":[]}',
        b'{"event":"error","id":1,"name":"E","value":"v","traceback":"t","frames":[1]}',
        b'{"event":"error","id":1,"name":"E","value":"v","traceback":"t","frames":['
        + b",".join([b'{"filename":"f","line":1,"function":"g"}'] * 1001)
        + b"]}",
        b"[" * 100_000,
        b'{"event":"result","id":1,"main":true,"data":{"a/json":[' + b"[]," * 2_000_000 + b"[]]}}",
        b"1" * 5000,
    ],
)
async def test_a_context_that_breaks_the_protocol(played: Played, body: bytes) -> None:
    played.say(READY)
    await played.client.ready()

    async def break_it() -> None:
        await anyio.to_thread.run_sync(played.send, body)

    async with anyio.create_task_group() as group:
        group.start_soon(break_it)
        with pytest.raises(GuestBroken):
            await played.client.run("")
    assert not played.client.alive


async def test_a_giant_frame_is_refused_by_its_length(played: Played) -> None:
    played.say(READY)
    await played.client.ready()
    played.control.sendall(struct.pack("!I", FRAME_LIMIT + 1))
    with pytest.raises(GuestBroken):
        await played.client.run("")


@pytest.mark.parametrize("events", [[result(1)], [READY, READY], [READY, done(0)]])
async def test_a_context_that_speaks_unasked(played: Played, events: list[dict[str, Any]]) -> None:
    played.say(*events)
    await anyio.sleep(0.01)
    with pytest.raises(GuestBroken):
        await played.client.run("")


async def test_a_first_event_that_is_not_ready(played: Played) -> None:
    async with anyio.create_task_group() as group:

        async def speak() -> None:
            await anyio.wait_all_tasks_blocked()
            played.say(done(1))

        group.start_soon(speak)
        with pytest.raises(GuestBroken):
            await played.client.ready()


async def test_a_context_that_does_not_read_times_out(played: Played) -> None:
    played.say(READY)
    execution = await played.client.run("x" * (16 << 20), timeout=0.05)
    assert execution.killed_by is KilledBy.WALL
    assert played.client.must_kill


async def test_closed_pipes_are_no_end(played: Played) -> None:
    played.say(READY)
    await played.client.ready()
    for fd in (played.stdout, played.stderr):
        os.close(fd)
    played.stdout, played.stderr = os.pipe()
    played.say(result(1), done(1))
    assert (await played.client.run("")).text == "x"
