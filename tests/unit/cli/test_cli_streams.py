"""Bytes pass unchanged between this terminal and a process."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from atoll.cli import streams
from atoll.model import CommandResult, KilledBy, Limits, ProcessNotFound


class EchoProcess:
    """Says some bytes, then ends when it was signalled or told to stop."""

    def __init__(self, says: bytes = b"", *, waits: bool = False) -> None:
        self.says = says
        self.signals: list[str] = []
        self.taken = b""
        self.input_closed = anyio.Event()
        self.stopped = anyio.Event()
        self._waits = waits

    async def output(self) -> AsyncIterator[tuple[str, bytes]]:
        yield "stdout", self.says
        if self._waits:
            await self.stopped.wait()

    async def wait(self) -> CommandResult:
        return CommandResult("", "", 0)

    async def send(self, data: bytes) -> None:
        self.taken += data

    async def close_input(self) -> None:
        self.input_closed.set()
        self.stopped.set()

    async def send_signal(self, name: str) -> None:
        self.signals.append(name)
        self.stopped.set()

    async def stop(self) -> None:
        self.stopped.set()


def test_every_byte_is_written(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    everything = bytes(range(256)) * 1000
    anyio.run(lambda: streams.carry(EchoProcess(everything), stdin=False))
    assert capfdbinary.readouterr().out == everything


def test_a_process_that_closed_its_input_ends_the_feeding(tmp_path: Path) -> None:
    class Deaf(EchoProcess):
        async def send(self, data: bytes) -> None:
            self.stopped.set()
            raise ProcessNotFound("closed")

    _with_input(tmp_path, b"x", lambda: streams.carry(Deaf(waits=True)))


def _with_input(tmp_path: Path, data: bytes, work: object) -> None:
    path = tmp_path / "input"
    path.write_bytes(data)
    saved = os.dup(0)
    fd = os.open(path, os.O_RDONLY)
    try:
        os.dup2(fd, 0)
        anyio.run(work)  # type: ignore[arg-type]
    finally:
        os.dup2(saved, 0)
        os.close(saved)
        os.close(fd)


def test_a_regular_file_is_passed_on_to_its_end(tmp_path: Path) -> None:
    process = EchoProcess(waits=True)
    data = bytes(range(256)) * 2000
    _with_input(tmp_path, data, lambda: streams.carry(process))
    assert process.taken == data
    assert process.input_closed.is_set()


def test_a_pipe_is_passed_on_as_it_comes() -> None:
    taken: list[bytes] = []

    async def take(data: bytes) -> None:
        taken.append(data)

    read, write = os.pipe()
    writer = threading.Thread(target=_write_and_close, args=(write, b"ab" * 100_000))
    writer.start()
    anyio.run(streams.read_all, read, take)
    writer.join()
    os.close(read)
    assert b"".join(taken) == b"ab" * 100_000


def _write_and_close(fd: int, data: bytes) -> None:
    with os.fdopen(fd, "wb") as pipe:
        pipe.write(data)


def test_an_interrupt_goes_to_the_process_and_not_to_us() -> None:
    process = EchoProcess(waits=True)

    async def work() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: streams.carry(process, stdin=False))
            await anyio.wait_all_tasks_blocked()
            os.kill(os.getpid(), signal.SIGINT)

    anyio.run(work)
    assert process.signals == ["SIGINT"]


def test_the_time_runs_out() -> None:
    async def work() -> streams.Carried:
        return await streams.carry(EchoProcess(waits=True), stdin=False, timeout=0.01)

    assert anyio.run(work).timed_out


def test_a_limit_that_ended_a_program_is_named_with_its_option() -> None:
    assert streams.killed_line(KilledBy.MEMORY, Limits(memory=4096)) == (
        "killed: the memory limit of 4096 was reached (--memory changes it)"
    )
    assert "--cpu-time" in streams.killed_line(KilledBy.CPU, Limits(cpu_time=1.0))
