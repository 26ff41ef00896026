"""First program of a sandbox of `bubblewrap`: takes away what bwrap leaves, then serves.

    python -I -S -B /.atoll/entry.py MASK

bwrap enters the sandbox's own user namespace last. That gives a full bounding set back, and its
process still has the id of the account that built the walls. So this program becomes the sandbox's
root, keeps only the capabilities of MASK (in no other set), and closes every descriptor but the
channel. Not a byte of a client has been read by then, and the host checks the result.

Runs inside, with the standard library only. Facts: capabilities(7), prctl(2), user_namespaces(7).
"""

import ctypes
import json
import os
import struct
import sys

CHANNEL = 3
_HOME = "/.atoll"
_PR_SET_DUMPABLE, _PR_SET_NAME = 4, 15
_PR_CAPBSET_READ, _PR_CAPBSET_DROP = 23, 24
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
_CAPABILITY_VERSION_3 = 0x20080522
_libc = ctypes.CDLL(None, use_errno=True)


def _call(what: str, result: int) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _prctl(option: int, value: int = 0) -> int:
    zero = ctypes.c_ulong(0)
    return int(_libc.prctl(option, ctypes.c_ulong(value), zero, zero, zero))


def close_descriptors() -> None:
    """Keep the channel; 0, 1 and 2 become /dev/null."""
    null = os.open("/dev/null", os.O_RDWR)
    for number in range(3):
        os.dup2(null, number)
    os.closerange(CHANNEL + 1, 1 << 20)


def become_root() -> None:
    """The sandbox's own root: bwrap runs as the account outside that has built the walls."""
    os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)


def keep_capabilities(mask: int) -> None:
    """`mask` is permitted and effective and bounds what may be; all else goes."""
    number = 0
    while (present := _prctl(_PR_CAPBSET_READ, number)) >= 0:
        if present and not mask >> number & 1:
            _call(f"drop capability {number}", _prctl(_PR_CAPBSET_DROP, number))
        number += 1
    _call("clear ambient capabilities", _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL))
    low, high = mask & 0xFFFFFFFF, mask >> 32
    header = struct.pack("Ii", _CAPABILITY_VERSION_3, 0)
    _call("capset", int(_libc.capset(header, struct.pack("6I", low, low, 0, high, high, 0))))


def main() -> None:
    """Become the guest that the command line describes, and serve."""
    try:
        mask = int(sys.argv[1], 16)
        close_descriptors()
        become_root()
        keep_capabilities(mask)
        _call("not dumpable", _prctl(_PR_SET_DUMPABLE, 0))
        name = ctypes.create_string_buffer(b"guest")
        _call("name", int(_libc.prctl(_PR_SET_NAME, name, 0, 0, 0)))
    except OSError as error:
        os.write(CHANNEL, json.dumps({"event": "failed", "message": str(error)}).encode())
        sys.exit(1)
    sys.path.append(_HOME)
    from atoll.guest.init import serve

    serve(CHANNEL)


if __name__ == "__main__":
    main()
