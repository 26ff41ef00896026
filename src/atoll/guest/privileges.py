"""What a process may do: ids, the five capability sets, dumpability.

Facts: capabilities(7), prctl(2), capset(2); numbers from include/uapi/linux/{capability,prctl}.h.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys

from atoll.guest.refusal import Refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from atoll.guest.users import Account

_PR_SET_DUMPABLE = 4
_PR_CAPBSET_READ = 23
_PR_CAPBSET_DROP = 24
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_CAPABILITY_VERSION_3 = 0x20080522
_LINUX = sys.platform == "linux"

ROOT_CAPABILITY_NUMBERS = {
    "CHOWN": 0,
    "DAC_OVERRIDE": 1,
    "FOWNER": 3,
    "FSETID": 4,
    "KILL": 5,
    "SETGID": 6,
    "SETUID": 7,
    "SYS_CHROOT": 18,
    "SETFCAP": 31,
}
ROOT_CAPABILITIES = sum(1 << number for number in ROOT_CAPABILITY_NUMBERS.values())
"""All that the sandbox's root may hold."""

_libc = ctypes.CDLL(None, use_errno=True)
if _LINUX:
    _libc.prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]


def _prctl(option: int, value: int = 0) -> int:
    return int(_libc.prctl(option, value, 0, 0, 0))


def _error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))


def hide_memory() -> None:
    """Not dumpable: nobody without CAP_SYS_PTRACE may trace this process or read its memory."""
    if _LINUX and _prctl(_PR_SET_DUMPABLE, 0) < 0:
        raise _error()


def adopt_orphans() -> None:
    """Orphans below become this process's children, also where it is not PID 1."""
    if _LINUX and _prctl(_PR_SET_CHILD_SUBREAPER, 1) < 0:
        raise _error()


def forbid_new_privileges() -> None:
    """No exec from here on gains anything; the launcher has said so already."""
    if _LINUX and _prctl(_PR_SET_NO_NEW_PRIVS, 1) < 0:
        raise _error()


class Powers:
    """What a process holds and can therefore give away.

    Attributes:
        permitted: mask of its permitted capabilities.
        bounding: numbers of the capabilities in its bounding set.
    """

    def __init__(self, permitted: int, bounding: list[int]) -> None:
        self.permitted = permitted
        self.bounding = bounding

    @classmethod
    def held(cls) -> Powers:
        """Those of this process."""
        if not _LINUX:
            return cls(0, [])
        return cls(_permitted(), [number for number, present in _bounding_set() if present])

    @classmethod
    def of_newcomer(cls) -> Powers:
        """Those of whoever has just entered a user namespace: all there are (setns(2))."""
        known = [number for number, _ in _bounding_set()]
        return cls(sum(1 << number for number in known), known)

    def become(self, account: Account) -> None:
        """Turn this process into `account` for good: root keeps the short list, others nothing.

        Raises:
            Refused: unknown_user, if this process has not the right to (one mapped id, say).
        """
        keep = self.permitted & ROOT_CAPABILITIES if account.uid == 0 else 0
        self._limit_bounding_set(ROOT_CAPABILITIES if account.uid == 0 else 0)
        try:
            _set_groups(account)
            os.setregid(account.gid, account.gid)
            os.setreuid(account.uid, account.uid)
        except OSError as error:
            message = f"cannot run as user {account.name!r} here: {error.strerror}"
            raise Refused("unknown_user", message) from None
        if _LINUX:
            _prctl_clear_ambient()
            _capset(keep)
            hide_memory()

    def _limit_bounding_set(self, keep: int) -> None:
        for number in self.bounding:
            if not keep >> number & 1 and _prctl(_PR_CAPBSET_DROP, number) < 0:
                if self.permitted == 0:
                    return  # an account that holds nothing, and no_new_privs keeps it so
                raise Refused("sandbox", f"capability {number} cannot be dropped: {_error()}")


def _set_groups(account: Account) -> None:
    try:
        os.setgroups(account.groups)
    except OSError as error:
        if error.errno == errno.EINVAL:  # a group whose id is not mapped here
            os.setgroups([account.gid])
        elif (account.uid, account.gid) != (os.getuid(), os.getgid()):
            raise


def _permitted() -> int:
    header = struct.pack("Ii", _CAPABILITY_VERSION_3, 0)
    data = ctypes.create_string_buffer(24)
    if _libc.capget(header, data) < 0:
        raise _error()
    _, low, _, _, high, _ = struct.unpack("6I", data.raw)
    return int(low | high << 32)


def _capset(mask: int) -> None:
    low, high = mask & 0xFFFFFFFF, mask >> 32
    header = struct.pack("Ii", _CAPABILITY_VERSION_3, 0)
    if _libc.capset(header, struct.pack("6I", low, low, 0, high, high, 0)) < 0:
        raise _error()


def _bounding_set() -> Iterator[tuple[int, bool]]:
    """Each capability that this kernel knows, and whether this process's bounding set has it."""
    number = 0
    while (present := _prctl(_PR_CAPBSET_READ, number)) >= 0:
        yield number, bool(present)
        number += 1


def _prctl_clear_ambient() -> None:
    if _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL) < 0:
        raise _error()


def become(account: Account, powers: Powers) -> None:
    """`powers.become(account)`, by which a zygote's fork takes its last step."""
    powers.become(account)
