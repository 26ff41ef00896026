"""The part of libseccomp that Atoll needs, through ctypes.

The published bindings look the library up with `ctypes.util.find_library`, which starts ldconfig or
a compiler at import; the soname is fixed, so this one opens it directly.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable

from atoll.model import WallUnavailable

SONAME = "libseccomp.so.2"
# <seccomp.h>: architecture tokens are AUDIT_ARCH_* values.
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_ACT_ON_BAD_ARCHITECTURE = 2  # SCMP_FLTATR_ACT_BADARCH
_OPTIMIZE = 8  # SCMP_FLTATR_CTL_OPTIMIZE; level 2 is a binary tree over the numbers
_UNKNOWN_CALL = -1  # __NR_SCMP_ERROR


def load() -> ctypes.CDLL:
    """libseccomp with its argument types declared.

    Raises:
        WallUnavailable: the library is missing or older than 2.5.
    """
    try:
        library = ctypes.CDLL(SONAME)
    except OSError as error:
        raise WallUnavailable(
            f"the system call filter cannot be built: {SONAME} does not load ({error})",
            hint="install it: `sudo apt-get install libseccomp2` (Debian, Ubuntu) or "
            "`sudo dnf install libseccomp`.",
        ) from error
    context, number, word = ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32
    for name, result, arguments in (
        ("seccomp_init", context, [word]),
        ("seccomp_release", None, [context]),
        ("seccomp_arch_native", word, []),
        ("seccomp_arch_add", number, [context, word]),
        ("seccomp_arch_remove", number, [context, word]),
        ("seccomp_attr_set", number, [context, number, word]),
        ("seccomp_syscall_resolve_name", number, [ctypes.c_char_p]),
        ("seccomp_rule_add_array", number, [context, word, number, ctypes.c_uint, context]),
        ("seccomp_export_bpf", number, [context, number]),
    ):
        function = getattr(library, name)
        function.restype = result
        function.argtypes = arguments
    return library


class Filter:
    """A filter under construction for one architecture; every other one gets `bad_architecture`."""

    def __init__(self, architecture: str, *, default: int, bad_architecture: int) -> None:
        self._library = load()
        self._context = self._call(self._library.seccomp_init, default)
        if not self._context:
            raise WallUnavailable("libseccomp could not make a filter")
        self.native = ARCHITECTURES[architecture] == self._library.seccomp_arch_native()
        if not self.native:
            self._check("seccomp_arch_add", ARCHITECTURES[architecture])
            self._check("seccomp_arch_remove", self._library.seccomp_arch_native())
        self._check("seccomp_attr_set", _ACT_ON_BAD_ARCHITECTURE, bad_architecture)
        self._check("seccomp_attr_set", _OPTIMIZE, 2)

    def __enter__(self) -> Filter:
        return self

    def __exit__(self, *_: object) -> None:
        self._library.seccomp_release(self._context)

    def number(self, name: str) -> int | None:
        """The number to give to `rule`, or None if this libseccomp does not know the name."""
        found = int(self._library.seccomp_syscall_resolve_name(name.encode()))
        return None if found == _UNKNOWN_CALL else found

    def rule(self, action: int, number: int) -> None:
        """Answer `number` with `action`; a call that the architecture lacks is passed over."""
        self._check("seccomp_rule_add_array", action, number, 0, None)

    def export(self) -> bytes:
        """The BPF program."""
        descriptor = os.memfd_create("filter", os.MFD_CLOEXEC)
        try:
            self._check("seccomp_export_bpf", descriptor)
            return os.pread(descriptor, os.fstat(descriptor).st_size, 0)
        finally:
            os.close(descriptor)

    def _check(self, name: str, *arguments: int | None) -> None:
        code = self._call(getattr(self._library, name), self._context, *arguments)
        if code != 0:
            raise WallUnavailable(
                f"libseccomp: {name}{arguments} failed: {os.strerror(-int(code))}",
                hint="Atoll needs libseccomp 2.5 or newer.",
            )

    @staticmethod
    def _call(function: Callable[..., int], *arguments: int | None) -> int:
        return function(*arguments)
