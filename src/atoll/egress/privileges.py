"""Takes from the proxy's process what it does not need, before it sees a byte of any guest."""

from __future__ import annotations

import ctypes
import os
import resource
from contextlib import suppress
from pathlib import Path

# Above the ids of sandboxes and of foreign images (systemd, UIDS-GIDS): unused.
_FIRST_UID = 2_147_418_112
_UIDS = 65_536
_MOST_DESCRIPTORS = 1 << 20
_LARGEST_FILE = 1 << 16
_PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 4, 38


def drop() -> None:
    """Become an account that owns nothing, for good. Raises OSError: then nothing may be served.

    An ordinary user's proxy keeps the user's id, and loses the rest all the same.
    """
    _raise_descriptors()
    if os.geteuid() == 0:
        # Its own for each proxy, so that none can trace or signal another.
        uid = _FIRST_UID + os.getpid() % _UIDS
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _prctl(_PR_SET_DUMPABLE, 0)
    for kind, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NPROC, 0),  # neither process nor thread
        (resource.RLIMIT_FSIZE, _LARGEST_FILE),
    ):
        resource.setrlimit(kind, (most, most))


def _raise_descriptors() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if os.geteuid() == 0:
        most = min(_MOST_DESCRIPTORS, int(Path("/proc/sys/fs/nr_open").read_text()))
        with suppress(PermissionError, ValueError):  # without CAP_SYS_RESOURCE
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(hard, most), max(hard, most)))
            return
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
