"""Contexts: which program is started, and with which descriptors."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest
from guest_host import SECONDS, USER, Host, pipe, read_all

CONTEXTS = Path(__file__).parents[3] / "src/atoll/guest/contexts"


def started(host: Host, place: Path, language: str, **fields: object) -> list[str]:
    """The arguments with which the context of `language` is started."""
    runtime = place / "runtime"
    runtime.write_text('#!/bin/sh\necho "$@"; echo ready >&3\n')
    runtime.chmod(0o755)
    control, inner = socket.socketpair()
    with pipe() as (out, out_inner), pipe() as (err, err_inner), control:
        fds = {"1": 0, "2": 1, "3": 2}
        rights = (out_inner, err_inner, inner.fileno())
        request = {"language": language, "runtime": str(runtime), "user": USER, "fds": fds}
        pid = host.request("context", rights, **request, **fields)["pid"]
        os.close(out_inner)
        os.close(err_inner)
        inner.close()
        assert control.recv(100) == b"ready\n"
        assert host.exit_of(pid)["status"] == 0
        assert read_all(err) == b""
        return read_all(out).decode().split()


@pytest.mark.parametrize(
    ("language", "arguments"),
    [
        ("python", ["-I", f"{CONTEXTS}/python_main.py"]),
        ("javascript", [f"{CONTEXTS}/node_runner.mjs"]),
        ("typescript", [f"{CONTEXTS}/node_runner.mjs", "typescript"]),
        ("r", ["-I", f"{CONTEXTS}/kernel_main.py", "ir"]),
        ("java", ["-I", f"{CONTEXTS}/kernel_main.py", "java"]),
    ],
)
def test_the_program_of_a_language(
    host: Host, place: Path, language: str, arguments: list[str]
) -> None:
    assert started(host, place, language) == arguments


def test_flags_and_arguments_of_the_host(host: Host, place: Path) -> None:
    found = started(host, place, "python", flags=["-B"], arguments=["numpy"])
    assert found == ["-B", f"{CONTEXTS}/python_main.py", "numpy"]


def test_bash_needs_no_interpreter(host: Host) -> None:
    control, inner = socket.socketpair()
    with pipe() as (out, out_inner), control:
        request = {"language": "bash", "user": USER, "env": {"A": "1"}, "cwd": "/tmp"}
        fds = {"1": 0, "2": 0, "3": 1}
        pid = host.request("context", (out_inner, inner.fileno()), fds=fds, **request)["pid"]
        os.close(out_inner)
        inner.close()
        assert frame(control) == {"event": "ready", "pid": pid}
        code = b'{"op":"run","id":1,"code":"B=2; echo $A$B $PWD $USER"}'
        control.sendall(len(code).to_bytes(4, "big") + code)
        assert frame(control) == {"event": "done", "id": 1, "count": 1}
        control.close()
        assert read_all(out).decode().split() == ["12", "/tmp", USER]
    assert host.exit_of(pid)["status"] == 0


def frame(control: socket.socket) -> dict[str, object]:
    """The next frame of a context."""
    control.settimeout(SECONDS)
    head = control.recv(4, socket.MSG_WAITALL)
    body = json.loads(control.recv(int.from_bytes(head, "big"), socket.MSG_WAITALL))
    assert isinstance(body, dict)
    return body


def test_a_context_needs_its_three_descriptors(host: Host) -> None:
    request = ("context", ())
    assert host.refusal(*request, language="python", runtime="/bin/true") == "invalid_argument"


def test_a_language_without_an_interpreter(host: Host) -> None:
    assert host.refusal("context", language="python", runtime=None) == "unknown_language"
    assert host.refusal("context", language="cobol") == "unknown_language"
