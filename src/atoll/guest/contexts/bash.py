"""Bash contexts: a shell whose variables, functions, aliases and directory outlive each cell.

Runs in a process that the guest has forked, as the user; the standard library is out of reach
there, so everything is imported with this module (and little is: each fork of a guest pays for it).
What a cell's end means:

- status 0: no error;
- another status, also by ``exit N`` or ``set -e``: an error named ``ExitStatus`` whose value is
  the status as text, as notebooks' bash kernels have it; the shell's state goes on;
- an interrupt: an error named ``Interrupted``; background jobs go on, ``jobs`` forgets them.
"""

from __future__ import annotations

import os
import re
import shlex
import signal

from atoll.guest.contexts.channel import Channel, encode
from atoll.guest.contexts.shell_process import ShellEnded, ShellProcess, signal_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any, NoReturn

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_INTERRUPTED = 128 + signal.SIGINT


def serve(control_fd: int) -> NoReturn:
    """Answer cells on `control_fd`, printing to 1 and 2, until the host ends it."""
    os.set_inheritable(control_fd, False)
    BashContext(Channel(control_fd), ShellProcess()).serve()


class BashContext:
    """One shell behind one control socket."""

    def __init__(self, channel: Channel, shell: ShellProcess) -> None:
        self._channel = channel
        self._shell = shell
        self._count = 0
        self._interrupted = False

    def serve(self) -> NoReturn:
        """Run cells until the host says so or is gone."""
        # A handler, not SIG_IGN: commands must not inherit that.
        signal.signal(signal.SIGINT, self._on_interrupt)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        self._send({"event": "ready", "pid": os.getpid()})
        while True:
            request = self._channel.receive()
            if request is None or request.get("op") == "shutdown":
                self._shell.close()
                os._exit(0)
            self._run(request)

    def _run(self, request: dict[str, Any]) -> None:
        if not request.get("silent"):
            self._count += 1
        self._interrupted = False
        error = self._check(request)
        if error is None:
            error = self._evaluate_around(request)
        if error is not None:
            self._send({**error, "id": request["id"]}, at_once=False)
        self._send({"event": "done", "id": request["id"], "count": self._count})

    def _check(self, request: dict[str, Any]) -> dict[str, Any] | None:
        if "\0" in request["code"]:
            return _error("InvalidCode", "the code holds a NUL character")
        for name in request.get("env") or {}:
            if not _NAME.fullmatch(name):
                return _error("InvalidEnvironment", f"{name!r} cannot be a shell variable")
        return None

    def _evaluate_around(self, request: dict[str, Any]) -> dict[str, Any] | None:
        """Evaluate the code between setting and undoing the run's own environment."""
        before, after = _overrides(request.get("env") or {}, request.get("cwd"))
        error = self._evaluate(before) if before else None
        if error is None:
            error = self._evaluate(request["code"])
        if after and not self._undo(after):
            # An interrupt has ended the shell in the middle; what was undone stays undone.
            self._undo(after)
        return error

    def _undo(self, code: str) -> bool:
        try:
            self._shell.evaluate(code, lambda: False)
        except ShellEnded:
            return False
        return True

    def _evaluate(self, code: str) -> dict[str, Any] | None:
        try:
            status = self._shell.evaluate(code, lambda: self._interrupted)
        except ShellEnded as ended:
            status = ended.status
        if self._interrupted and status == _INTERRUPTED:
            return _error("Interrupted", "the cell was interrupted")
        if status == 0:
            return None
        name = signal_name(status) if status > 128 else None
        return _error("ExitStatus", str(status), f"ended by {name}" if name else "")

    def _on_interrupt(self, signum: int, frame: FrameType | None) -> None:
        """The shell and its commands have got the signal too: here it is only noted."""
        self._interrupted = True

    def _send(self, event: dict[str, Any], at_once: bool = True) -> None:
        self._channel.post(encode(event))
        if at_once:
            self._channel.flush()


def _overrides(env: dict[str, str], cwd: str | None) -> tuple[str, str]:
    """Shell code that sets a run's own environment and directory, and code that undoes it."""
    before, after = [], []
    for name, value in env.items():
        was, had = f"__atoll_was_{name}", f"__atoll_had_{name}"
        before.append(f'{was}="${{{name}-}}" {had}=${{{name}+x}}; export {name}={_quoted(value)}')
        after.append(
            f'case ${{{had}-none}} in none) ;; x) export {name}="${was}";; *) unset {name};; esac; '
            f"unset {had} {was}"
        )
    if cwd:
        before.append(f"__atoll_cwd=$PWD; cd -- {_quoted(cwd)}")
        after.append('cd -- "${__atoll_cwd-.}"; unset __atoll_cwd')
    return "\n".join(before), "\n".join(after)


def _quoted(text: str) -> str:
    return shlex.quote(text)


def _error(name: str, value: str, more: str = "") -> dict[str, Any]:
    text = f"{name}: {value}" + (f" ({more})" if more else "")
    return {"event": "error", "name": name, "value": value, "traceback": text, "frames": []}
