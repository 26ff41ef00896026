"""Signals as a new program expects them: none ignored, none blocked, whoever started us.

The C library keeps signals 32 and 33 for itself and does not let `signal` touch them, but a parent
may have ignored them, and that is inherited through exec (signal(7), nptl(7)): so they are reset
by the system call itself.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_RT_SIGACTION = {"x86_64": 13, "aarch64": 134}
_HIDDEN = (32, 33)


def reset() -> None:
    """Every signal's default action, and an empty mask."""
    for number in signal.valid_signals():
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    call = _RT_SIGACTION.get(os.uname().machine)
    if sys.platform != "linux" or call is None:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    default = ctypes.create_string_buffer(32)  # struct kernel_sigaction, all zero
    for hidden in _HIDDEN:
        libc.syscall(ctypes.c_long(call), hidden, default, None, ctypes.c_size_t(8))
