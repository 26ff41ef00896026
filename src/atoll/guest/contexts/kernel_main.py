"""Entry of a context whose language has a Jupyter kernel: ``python -I kernel_main.py KERNEL``.

Starts the kernel on ipc sockets in a private directory and turns its messages into our events
(messages: "Messaging in Jupyter", jupyter-client's documentation). Needs jupyter_client and the
kernel in the template. The control socket is descriptor 3.
"""

from __future__ import annotations

import json
import os
import queue
import re
import shutil
import signal
import sys
import tempfile
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

CONTROL_FD = 3
_START_SECONDS = 60.0
_LOOK_SECONDS = 0.1
_ESCAPES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_SET_R = "Sys.setenv({name}={value})"
_UNSET_R = "Sys.unsetenv({name})"


class KernelContext:
    """One kernel behind one control socket."""

    def __init__(
        self,
        channel: Any,
        name: str,
        frame_of: Callable[[dict[str, Any]], bytes],
        to_json: Callable[[dict[str, Any]], dict[str, Any]],
    ) -> None:
        self._channel = channel
        self._frame_of = frame_of
        self._to_json = to_json
        self._name = name
        self._count = 0
        self._interrupted = False
        self._directory = tempfile.mkdtemp(prefix="atoll-kernel-")
        self._failure: str | None = None
        self._held: dict[str, Any] | None = None
        self._manager: Any = None
        self._client: Any = None

    def serve(self) -> NoReturn:
        """Run cells until the host says so or is gone."""
        os.set_inheritable(CONTROL_FD, False)
        signal.signal(signal.SIGINT, self._on_interrupt)
        self._start()
        self._send({"event": "ready", "pid": os.getpid()})
        while True:
            request = self._channel.receive()
            if request is None or request.get("op") == "shutdown":
                self._leave(0)
            self._run(request)

    def _start(self) -> None:
        """Start the kernel; what goes wrong is the answer to every cell."""
        try:
            from jupyter_client.blocking.client import BlockingKernelClient
            from jupyter_client.manager import KernelManager

            self._manager = KernelManager(
                kernel_name=self._name,
                transport="ipc",
                ip=f"{self._directory}/socket",
                connection_file=f"{self._directory}/connection.json",
            )
            self._manager.client_class = (
                f"{BlockingKernelClient.__module__}.{BlockingKernelClient.__name__}"
            )
            self._manager.start_kernel()
            self._client = self._manager.client()
            self._client.start_channels()
            self._client.wait_for_ready(timeout=_START_SECONDS)
        except Exception as error:
            self._failure = (
                f"the kernel {self._name!r} does not start in this template: "
                f"{type(error).__name__}: {error}"
            )

    def _run(self, request: dict[str, Any]) -> None:
        self._interrupted = False
        silent = bool(request.get("silent"))
        if not silent:
            self._count += 1
        if self._failure is not None:
            self._error(request["id"], "KernelUnavailable", self._failure)
        else:
            self._run_code(request, silent)
        self._send({"event": "done", "id": request["id"], "count": self._count})

    def _run_code(self, request: dict[str, Any], silent: bool) -> None:
        env = request.get("env") or {}
        if (env and self._name != "ir") or request.get("cwd"):
            self._error(
                request["id"],
                "NotSupported",
                f"the kernel {self._name!r} cannot change environment or directory for one cell",
            )
            return
        for name, value in env.items():
            self._execute(None, _SET_R.format(name=name, value=json.dumps(value)), True)
        self._execute(request["id"], request["code"], silent)
        for name in env:
            self._execute(None, _UNSET_R.format(name=json.dumps(name)), True)

    def _execute(self, cell: int | None, code: str, silent: bool) -> None:
        """Run code in the kernel and pass on what it says, until it is idle again."""
        message = self._client.execute(code, silent=silent, allow_stdin=False)
        interrupted = False
        while True:
            if self._interrupted and not interrupted and cell is not None:
                interrupted = True
                self._interrupt_kernel()
            try:
                said = self._client.get_iopub_msg(timeout=_LOOK_SECONDS)
            except queue.Empty:
                if not self._manager.is_alive():
                    self._leave(1)
                continue
            if said["parent_header"].get("msg_id") != message:
                continue
            kind, content = said["msg_type"], said["content"]
            if kind == "status" and content["execution_state"] == "idle":
                self._let_go(main=True)
                break
            if cell is not None:
                self._pass_on(cell, kind, content)
        self._take_reply(message)

    def _pass_on(self, cell: int, kind: str, content: dict[str, Any]) -> None:
        if kind == "stream":
            data = content["text"].encode("utf-8", "backslashreplace")
            fd = 2 if content["name"] == "stderr" else 1
            while data:
                data = data[os.write(fd, data) :]
        elif kind in ("execute_result", "display_data", "update_display_data"):
            self._let_go(main=False)
            main = kind == "execute_result"
            data = self._to_json(content["data"])
            self._held = {"event": "result", "id": cell, "data": data, "main": main}
            if self._name != "ir":
                self._let_go(main=main)
        elif kind == "error":
            self._let_go(main=False)
            trace = _ESCAPES.sub("", "\n".join(content.get("traceback") or []))
            self._error(cell, content.get("ename") or "Error", content.get("evalue") or "", trace)

    def _let_go(self, main: bool) -> None:
        """Send the result that was held back.

        IRkernel shows values as it shows pictures; the last thing that a cell shows is its value.
        """
        if self._held is not None:
            self._send({**self._held, "main": main})
            self._held = None

    def _take_reply(self, message: str) -> None:
        """Empty the shell channel up to the reply: its content was on iopub already."""
        while True:
            try:
                reply = self._client.get_shell_msg(timeout=_LOOK_SECONDS)
            except queue.Empty:
                return
            if reply["parent_header"].get("msg_id") == message:
                return

    def _interrupt_kernel(self) -> None:
        """As its specification says: by a signal to its process group, or by a message."""
        if self._manager.kernel_spec.interrupt_mode == "message":
            client = self._client
            client.control_channel.send(client.session.msg("interrupt_request"))
        else:
            self._manager.signal_kernel(signal.SIGINT)

    def _error(self, cell: int, name: str, value: str, trace: str = "") -> None:
        text = trace or f"{name}: {value}"
        error = {"name": name, "value": value, "traceback": text, "frames": []}
        self._send({"event": "error", "id": cell, **error})

    def _send(self, event: dict[str, Any]) -> None:
        self._channel.post(self._frame_of(event))
        self._channel.flush()

    def _on_interrupt(self, signum: int, frame: FrameType | None) -> None:
        self._interrupted = True

    def _leave(self, status: int) -> NoReturn:
        try:
            if self._manager is not None and self._manager.has_kernel:
                self._manager.shutdown_kernel(now=True)
        finally:
            shutil.rmtree(self._directory, ignore_errors=True)
            os._exit(status)


def main() -> None:
    """Serve the kernel named by the first argument."""
    sys.path.append(__file__.rpartition("/atoll/guest/contexts/")[0])
    from atoll.guest.contexts.channel import Channel
    from atoll.guest.contexts.mime import to_json
    from atoll.guest.contexts.session import frame_of

    KernelContext(Channel(CONTROL_FD), sys.argv[1], frame_of, to_json).serve()


if __name__ == "__main__":
    main()
