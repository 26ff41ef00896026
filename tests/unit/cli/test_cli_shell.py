"""`atoll shell`: this terminal, connected to one in a sandbox."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from command_line import COMMAND, Atoll, Base

_PATIENCE = 20.0


class Terminal:
    """The command on a terminal, with somebody typing."""

    def __init__(self, master: int, process: subprocess.Popen[bytes]) -> None:
        self.master = master
        self.process = process
        self.shown = b""

    def type(self, text: bytes) -> None:
        os.write(self.master, text)

    def resize(self, cols: int, rows: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))
        self.process.send_signal(signal.SIGWINCH)

    def until(self, wanted: bytes) -> None:
        end = time.monotonic() + _PATIENCE
        while wanted not in self.shown:
            ready, _, _ = select.select([self.master], [], [], max(0, end - time.monotonic()))
            assert ready, self.shown
            try:
                self.shown += os.read(self.master, 65536)
            except OSError:
                raise AssertionError(self.shown) from None


@contextmanager
def shell(environment: dict[str, str], *arguments: str) -> Iterator[Terminal]:
    master, slave = pty.openpty()
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    process = subprocess.Popen(
        [*COMMAND, "shell", *arguments],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env={**environment, "TERM": "xterm"},
        start_new_session=True,
    )
    before = termios.tcgetattr(slave)
    try:
        yield Terminal(master, process)
        assert termios.tcgetattr(slave) == before
    finally:
        process.kill()
        process.wait()
        os.close(slave)
        os.close(master)


def test_an_interactive_shell(base: Base, atoll_environment: dict[str, str]) -> None:
    with shell(atoll_environment, *base) as terminal:
        terminal.until(b"$")
        terminal.type(b"stty size; tty\n")
        terminal.until(b"30 100")
        terminal.until(b"/dev/pts/")
        terminal.resize(120, 40)
        terminal.type(b"stty size\n")
        terminal.until(b"40 120")
        terminal.type(b"echo be''fore; sleep 60\n")
        terminal.until(b"before")
        time.sleep(0.3)  # what is typed before a Ctrl-C is thrown away by the terminal itself
        terminal.type(b"\x03")  # ends sleep, not the shell
        terminal.until(b"^C")
        terminal.type(b"echo al''ive\n")
        terminal.until(b"alive")
        terminal.type(b"exit 5\n")
        assert terminal.process.wait(_PATIENCE) == 5


def test_a_command_on_a_terminal(base: Base, atoll_environment: dict[str, str]) -> None:
    with shell(atoll_environment, *base, "--", "/bin/sh", "-c", "test -t 0 && exit 9") as terminal:
        assert terminal.process.wait(_PATIENCE) == 9


@pytest.mark.parametrize("arguments", [(), ("--template", "base")])
def test_without_a_terminal_it_says_what_to_use(atoll: Atoll, arguments: tuple[str, ...]) -> None:
    done = atoll("shell", *arguments)
    assert done.returncode == 125
    assert done.stderr == (
        b"Error: `atoll shell` needs a terminal\nHint: use `atoll run` for a program\n"
    )
