"""Runs a function in a forked child behind real filters."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import traceback
from collections.abc import Callable
from typing import Any

from atoll.launch.linux import syscalls

PR_SET_NO_NEW_PRIVS = 38


def install(*programs: bytes) -> None:
    """Put this process behind the filters, for good."""
    syscalls.prctl(PR_SET_NO_NEW_PRIVS, 1)
    for program in programs:
        syscalls.install_filter(program)


def in_child(function: Callable[[], Any], *programs: bytes) -> Any:
    """What `function` returns (as JSON) in a child behind `programs`."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            install(*programs)
            os.write(writer, json.dumps(function()).encode())
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as stream:
        text = stream.read()
    _, status = os.waitpid(pid, 0)
    assert status == 0, f"the child ended with {status:#x}"
    return json.loads(text)


def call(number: int, *args: int) -> str:
    """The name of the errno of a raw system call, or ``ok``."""
    libc = ctypes.CDLL(None, use_errno=True)
    words = [ctypes.c_ulong(value & 0xFFFFFFFFFFFFFFFF) for value in args]
    ctypes.set_errno(0)
    if libc.syscall(ctypes.c_long(number), *words) != -1:
        return "ok"
    return errno.errorcode[ctypes.get_errno()]
