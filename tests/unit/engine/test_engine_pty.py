"""Terminals."""

from __future__ import annotations

import anyio
import pytest

from atoll.engine import PtyHandle, Sandbox
from atoll.model import InvalidArgument, ProcessNotFound

pytestmark = pytest.mark.anyio


async def until(handle: PtyHandle, text: bytes) -> bytes:
    seen = b""
    with anyio.fail_after(10):
        async for data in handle:
            seen += data
            if text in seen:
                return seen
    raise AssertionError(seen)


async def test_a_terminal_has_a_size_that_can_change(sandbox: Sandbox) -> None:
    handle = await sandbox.pty.create(100, 30, ["/bin/bash", "--norc"])
    await handle.send_input("stty size; tty\n")
    await until(handle, b"30 100")
    await handle.resize(132, 43)
    await handle.send_input("stty size\n")
    await until(handle, b"43 132")
    await handle.send_input("exit 5\n")
    assert (await handle.wait()).exit_code == 5
    with pytest.raises(ProcessNotFound):
        await handle.resize(1, 1)
    with pytest.raises(ProcessNotFound):
        await handle.send_input("x")


async def test_control_c_reaches_the_foreground(sandbox: Sandbox) -> None:
    handle = await sandbox.pty.create(cmd=["/bin/bash", "--norc", "-c", "echo on; sleep 100"])
    await until(handle, b"on")
    await handle.send_stdin(b"\x03")
    assert (await handle.wait()).exit_code == 130


async def test_another_handle_sees_all_and_types(sandbox: Sandbox) -> None:
    first = await sandbox.pty.create(cmd=["/bin/cat"], tag="t")
    await first.send_input("one\n")
    await until(first, b"one\r\none\r\n")
    second = sandbox.pty.connect("t")
    await second.send_input("two\n")
    await until(second, b"one\r\none\r\ntwo\r\ntwo\r\n")
    assert await second.kill()
    assert (await first.wait()).signal == "SIGKILL"


async def test_a_hang_up_ends_those_who_are_left(sandbox: Sandbox) -> None:
    handle = await sandbox.pty.create(cmd=["/bin/sh", "-c", "sleep 100 & echo done"])
    assert b"done" in (await handle.wait()).stdout.encode()


async def test_bad_input_is_a_typed_error(sandbox: Sandbox) -> None:
    for cols, rows in ((0, 1), (1, -1), (True, 1), (1 << 16, 1), ("80", 24)):
        with pytest.raises(InvalidArgument):
            await sandbox.pty.create(cols, rows)  # type: ignore[arg-type]
    handle = await sandbox.commands.start(["sleep", "100"])
    with pytest.raises(ProcessNotFound):
        sandbox.pty.connect(handle.pid)
