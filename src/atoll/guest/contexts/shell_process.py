"""A persistent shell: evaluates one text after another and says each one's exit status.

The shell runs a loop of one line (so that line numbers in its messages are those of the cell; the
inner loop of one turn is there for a cell's stray ``break``)
and evaluates each cell with our three descriptors closed, so that no command inherits them.
What ends the shell (``exit``, ``set -e``, an interrupt) must not end the context: a trap saves
variables, functions, aliases, options and directory, and the next shell takes them up.
"""

from __future__ import annotations

import fcntl
import os
import re
import select
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_WAKE, _STATUS, _TEXT = 7, 8, 9
_ABOVE = 100
_CLOSED = f"{_TEXT}<&- {_WAKE}<&- {_STATUS}>&-"

_BASH = (
    "shopt -s expand_aliases; __atoll_x=; "
    "trap '{ builtin declare -p; builtin declare -f; builtin alias -p; builtin shopt -p; "
    'builtin set +o; builtin printf "cd -- %q || :\\n" "$PWD"; } '
    '2>/dev/null >|"$__atoll_saved"\' EXIT; '
    f"while IFS= read -r -u {_WAKE} __atoll_go; do "
    f'IFS= read -r -d "" -u {_TEXT} __atoll_code || :; '
    'for __atoll_once in 1; do eval "$__atoll_x$__atoll_code" ' + _CLOSED + "; done; "
    "{ __atoll_status=$?; case $- in *x*) __atoll_x='set -x; ';; *) __atoll_x=;; esac; "
    f'set +x; builtin printf "%s\\n" "$__atoll_status" >&{_STATUS}; }} 2>/dev/null; '
    "done; case $__atoll_go in '') trap - EXIT;; esac"
)
# A POSIX shell cannot print its functions: they are lost with it.
_SH = (
    "trap 'exit 130' INT; "
    'trap \'{ set; export -p; alias | sed "s/^/alias /"; set +o; '
    'printf "cd -- \\"%s\\" || :\\n" "$PWD"; } 2>/dev/null >|"$__atoll_saved"\' EXIT; '
    f"while read -r __atoll_go <&{_WAKE}; do "
    f"__atoll_code=$(cat <&{_TEXT}); "
    'for __atoll_once in 1; do eval "$__atoll_code" ' + _CLOSED + "; done; "
    f'printf "%s\\n" "$?" >&{_STATUS}; '
    "done; case $__atoll_go in '') trap - EXIT;; esac"
)
_FIXED = re.compile(
    rb"^(?:declare -\S+|readonly) (?:BASHOPTS|BASH_VERSINFO|EUID|PPID|SHELLOPTS|UID)=.*\n",
    re.MULTILINE,
)
"""Read-only variables of every shell: setting them would end the evaluation of all the rest."""


_ATTEMPTS = 3
"""Shells to start for one text, when each is ended before it takes it."""


class ShellEnded(Exception):
    """The shell is gone.

    Attributes:
        status: its exit status, or 128 and more for a signal.
        begun: it had taken the text that it was to evaluate.
    """

    def __init__(self, status: int, begun: bool = True) -> None:
        super().__init__(status)
        self.status = status
        self.begun = begun


class _Spawned:
    """A child process: what is needed of subprocess.Popen, without what that imports."""

    def __init__(
        self, program: str, argv: list[str], env: dict[str, str], fds: dict[int, int]
    ) -> None:
        """Run `program` with descriptors 1, 2 and `fds` (its number to ours); 0 is empty."""
        # Above the targets first, so that no source is overwritten before it is used.
        lifted = {n: fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _ABOVE) for n, fd in fds.items()}
        try:
            actions: list[tuple[object, ...]] = [
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
            ]
            actions += [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in lifted.items()]
            # What this process ignores is its own affair.
            default = (signal.SIGPIPE, signal.SIGXFSZ)
            self.pid = os.posix_spawn(program, argv, env, file_actions=actions, setsigdef=default)
        finally:
            for fd in lifted.values():
                os.close(fd)

    def ended(self) -> bool:
        """True if it has ended; then it is reaped."""
        return os.waitpid(self.pid, os.WNOHANG)[0] != 0

    def wait(self) -> int:
        """Its exit status, or minus the signal that ended it."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


class ShellProcess:
    """One shell, and after its end another one with what it has left."""

    def __init__(self) -> None:
        self._text = os.memfd_create("cell", os.MFD_CLOEXEC)
        directory = os.environ.get("TMPDIR") or "/tmp"  # noqa: S108 - the name is not guessable
        self._saved = f"{directory}/.atoll-shell-{os.urandom(12).hex()}"
        self._process: _Spawned | None = None
        self._wake = self._status = -1
        self._left = b""
        self._failures = 0

    def evaluate(self, code: str, stopped: Callable[[], bool]) -> int:
        """Evaluate in the shell; its exit status.

        A shell that ends before it takes the code (by an interrupt that was meant for what ran
        before) is replaced, unless `stopped` says that this code is not wanted any more.

        Raises:
            ShellEnded: it ended instead of answering; the next call starts another.
        """
        text = code.encode("utf-8", "surrogatepass")
        for more in reversed(range(_ATTEMPTS)):
            try:
                self._have_shell()
                if stopped():
                    break
                return self._evaluate(text)
            except ShellEnded as ended:
                if ended.begun or not more:
                    raise
        raise ShellEnded(128 + signal.SIGINT, begun=False)

    def close(self) -> None:
        """Let the shell come to its end."""
        self._forget()

    def _have_shell(self) -> None:
        """Start one if there is none, with what the last one has left. Raises ShellEnded."""
        if self._process is not None and self._process.ended():
            self._forget()
        if self._process is not None:
            return
        self._left = self._take_state() or self._left
        self._process = self._start()
        if not self._left:
            return
        try:
            # Three evaluations: one that fails half-way must not leave stderr closed.
            for step in (b"exec 6>&2 2>/dev/null", self._left, b"exec 2>&6 6>&-"):
                self._evaluate(step)
        except ShellEnded as ended:
            # What is left of half a state is not wanted, and the whole is not tried for ever.
            self._take_state()
            self._failures += 1
            if self._failures == _ATTEMPTS:
                self._left, self._failures = b"", 0
            raise ShellEnded(ended.status, begun=False) from None
        self._left, self._failures = b"", 0

    def _start(self) -> _Spawned:
        wake, self._wake = os.pipe()
        self._status, status = os.pipe()
        bash = _find("bash")
        argv = ["bash", "--norc", "--noprofile", "-c", _BASH] if bash else ["sh", "-c", _SH]
        env = {**os.environ, "__atoll_saved": self._saved}
        try:
            fds = {_WAKE: wake, _STATUS: status, _TEXT: self._text}
            return _Spawned(bash or "/bin/sh", [*argv, argv[0]], env, fds)
        finally:
            os.close(wake)
            os.close(status)

    def _evaluate(self, text: bytes) -> int:
        os.ftruncate(self._text, 0)
        os.lseek(self._text, 0, os.SEEK_SET)
        view = memoryview(text)
        while view:
            view = view[os.write(self._text, view) :]
        os.lseek(self._text, 0, os.SEEK_SET)
        self._wake_up()
        return self._await_status()

    def _wake_up(self) -> None:
        try:
            os.write(self._wake, b"go\n")
        except BrokenPipeError:
            return  # its end shows where its answer is awaited

    def _await_status(self) -> int:
        """The line that the shell writes when it is done, or its end (also by ``exec``)."""
        if self._process is None:
            raise ShellEnded(1)
        end = os.pidfd_open(self._process.pid)
        try:
            waiting = select.poll()
            for fd in (end, self._status):
                waiting.register(fd, select.POLLIN)
            answer = b""
            while not answer.endswith(b"\n"):
                ready = {fd for fd, _ in waiting.poll()}
                piece = os.read(self._status, 16) if self._status in ready else b""
                if not piece and end in ready:
                    status = self._process.wait()
                    self._forget()
                    begun = os.lseek(self._text, 0, os.SEEK_CUR) > 0
                    raise ShellEnded(128 - status if status < 0 else status, begun)
                if not piece:
                    waiting.unregister(self._status)
                answer += piece
            return int(answer)
        finally:
            os.close(end)

    def _take_state(self) -> bytes:
        """What the last shell has saved; nothing if a cell replaced the trap or filled the disk."""
        try:
            with open(self._saved, "rb") as file:
                state = file.read()
            os.unlink(self._saved)
        except OSError:
            return b""
        return _FIXED.sub(b"", state)

    def _forget(self) -> None:
        if self._process is not None:
            self._process = None
            os.close(self._wake)
            os.close(self._status)


def _find(name: str) -> str | None:
    """The program `name` on the PATH."""
    for directory in os.environ.get("PATH", os.defpath).split(":"):
        path = f"{directory}/{name}"
        if os.path.isfile(path) and os.access(path, os.X_OK):
            return path
    return None


def signal_name(status: int) -> str | None:
    """The signal that an exit status of 129 and more stands for."""
    try:
        return signal.Signals(status - 128).name
    except ValueError:
        return None
