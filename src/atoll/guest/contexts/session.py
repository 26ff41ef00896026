"""The cell loop of a Python context: takes ``run`` frames, sends events, outlives every cell."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import threading
from typing import Any, NoReturn

from atoll.guest.contexts import mime, tracebacks
from atoll.guest.contexts.channel import Channel, FrameTooLarge, encode
from atoll.guest.contexts.interrupts import Interrupts
from atoll.guest.contexts.plain import Interpreter


class Session:
    """One interpreter behind one control socket."""

    def __init__(self, channel: Channel, interpreter: Interpreter) -> None:
        self._channel = channel
        self._interpreter = interpreter
        self._interrupts = Interrupts()
        self._pid = os.getpid()
        self._cell: int | None = None
        # A thread that still shows something must not do it after ``done``.
        self._ending = threading.RLock()

    def serve(self) -> NoReturn:
        """Run cells until the host says so or is gone."""
        open_streams()
        os.set_inheritable(self._channel.fileno(), False)
        self.attach()
        self._interrupts.install()
        # As every Python starts: a write that has no reader, or is too long, is an OSError.
        for number in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        self._send({"event": "ready", "pid": self._pid})
        while self.step():
            pass
        flush_streams()
        os._exit(0)

    def attach(self) -> None:
        """Let the interpreter speak through this session."""
        self._interpreter.publish = self.publish
        self._interpreter.report = self.report
        self._interpreter.attach()

    def step(self) -> bool:
        """Run the next cell; False if the host has sent its last."""
        if not self._channel.has_frame():
            self._interpreter.loop.idle(self._channel.fileno())
        request = self._channel.receive()
        if request is None or request.get("op") == "shutdown":
            return False
        self._run(request)
        return True

    def publish(self, data: dict[str, Any], main: bool) -> None:
        """Send a MIME bundle as a result of the running cell."""
        flush_streams()
        with self._ending:
            if self._cell is None or os.getpid() != self._pid:
                # A thread of an earlier cell, or a child: no cell that it could belong to.
                if not main:
                    print(data.get("text/plain", ""))
                return
            content = mime.to_json(data)
            event = {"event": "result", "id": self._cell, "data": content, "main": main}
            # The main value comes last: it travels together with ``done``.
            self._send(event, at_once=not main)

    def report(self, error: BaseException) -> None:
        """Send an exception as the error of the running cell."""
        flush_streams()
        with self._ending:
            event = tracebacks.describe(error)
            if self._cell is None or os.getpid() != self._pid:
                print(event["traceback"], file=sys.stderr)
                return
            self._send({**event, "id": self._cell}, at_once=False)

    def _run(self, request: dict[str, Any]) -> None:
        self._cell = request["id"]
        self._interrupts.install()
        overrides = Overrides(request.get("env"), request.get("cwd"))

        def cell() -> None:
            overrides.apply()
            self._interpreter.run(request["code"], bool(request.get("silent")))

        self._guard(cell)
        self._guard(self._interpreter.finish)
        overrides.undo()
        flush_streams()
        with self._ending:
            done = {"event": "done", "id": self._cell, "count": self._interpreter.count}
            self._cell = None
            self._send(done)

    def _guard(self, step: Any) -> None:
        """Run a part of a cell; whatever it raises becomes the cell's error."""
        try:
            self._interrupts.forget()
            try:
                self._interrupts.armed = True
                step()
            finally:
                self._interrupts.armed = False
        except BaseException as error:
            self._leave_if_forked(error)
            sys.last_value = error
            self.report(error)
        else:
            self._leave_if_forked(None)

    def _leave_if_forked(self, error: BaseException | None) -> None:
        """A child that a cell forked must not answer in its parent's name."""
        if os.getpid() == self._pid:
            return
        flush_streams()
        status = 0 if error is None else 1
        if isinstance(error, SystemExit):
            status = error.code if isinstance(error.code, int) else int(error.code is not None)
        os._exit(status & 0xFF)

    def _send(self, event: dict[str, Any], at_once: bool = True) -> None:
        frame = frame_of(event)
        with self._interrupts.held():
            self._channel.post(frame)
            if at_once:
                self._channel.flush()


def frame_of(event: dict[str, Any]) -> bytes:
    """The event's frame; for a result that does not fit, the frame of an error that says so."""
    try:
        return encode(event)
    except FrameTooLarge as error:
        return encode(too_large(event, error.size))
    except (TypeError, ValueError, RecursionError):
        pass
    try:
        return encode({**event, "data": mime.forced_json(event["data"])})
    except FrameTooLarge as error:
        return encode(too_large(event, error.size))
    except (TypeError, ValueError, RecursionError) as error:
        return encode({**tracebacks.describe(error), "id": event.get("id")})


def too_large(event: dict[str, Any], size: int) -> dict[str, Any]:
    """The error that stands for a result larger than one frame."""
    value = (
        f"a result takes {size} bytes, more than the limit of 32 MiB; "
        "write it to a file or show a part of it"
    )
    return {
        "event": "error",
        "id": event.get("id"),
        "name": "ResultTooLarge",
        "value": value,
        "traceback": f"ResultTooLarge: {value}",
        "frames": [],
    }


def open_streams() -> None:
    """Fresh text streams on descriptors 1 and 2, whatever the process had before its fork."""
    for name, fd in (("stdout", 1), ("stderr", 2)):
        stream = io.TextIOWrapper(
            io.BufferedWriter(io.FileIO(fd, "w", closefd=False), 65536),
            encoding="utf-8",
            errors="backslashreplace",
            line_buffering=True,
        )
        stream.mode = "w"  # type: ignore[misc]
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def flush_streams() -> None:
    """Bring what was printed on its way, before an event that comes after it."""
    for stream in (sys.stdout, sys.stderr):
        # A cell may have put anything there.
        with contextlib.suppress(Exception):
            stream.flush()


class Overrides:
    """A run's own environment and directory, put back after it."""

    def __init__(self, env: dict[str, str] | None, cwd: str | None) -> None:
        self._env = env or {}
        self._cwd = cwd
        self._before: dict[str, str | None] = {}
        self._directory: str | None = None

    def apply(self) -> None:
        """Set them. Raises OSError for a directory that cannot be entered."""
        if self._cwd:
            before = os.getcwd()
            os.chdir(self._cwd)
            self._directory = before
        for name, value in self._env.items():
            self._before[name] = os.environ.get(name)
            os.environ[name] = value

    def undo(self) -> None:
        """Put back what `apply` changed."""
        for name, value in self._before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        if self._directory is not None:
            with contextlib.suppress(OSError):
                os.chdir(self._directory)
