"""The profile that macOS's sandbox-exec is given: what one sandbox may do, as text.

Pure, so that it is tested where there is no macOS. Everything is denied that is not named here.
The language has no manual of Apple's; rules follow those that ship in /System/Library/Sandbox and
in Chromium's sandbox/policy/mac. It has not been run: see `seatbelt`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

from atoll.model import InvalidPath

SYSTEM_PLACES = (
    "/System/Library",
    "/System/Volumes/Preboot/Cryptexes",
    "/Library/Apple/usr",
    "/private/var/db/dyld",
    "/private/var/db/timezone",
    "/private/etc/ssl",
    "/usr/lib",
    "/usr/share",
)
"""What every program needs to start: libraries, locales, time zones, certificates."""

PROGRAM_PLACES = ("/bin", "/sbin", "/usr/bin", "/usr/sbin", "/usr/libexec")
"""Where the system's own programs are."""

READABLE_DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom", "/dev/autofs_nowait")
WRITABLE_DEVICES = ("/dev/null", "/dev/zero", "/dev/tty")

MACH_SERVICES = ("com.apple.system.opendirectoryd.libinfo", "com.apple.system.notification_center")
"""getpwuid(3) asks the first, localtime(3) the second; neither acts for the caller."""

_SYSCTLS = """
hw.activecpu hw.byteorder hw.cachelinesize hw.cpufamily hw.cputype hw.logicalcpu
hw.logicalcpu_max hw.machine hw.memsize hw.ncpu hw.pagesize hw.pagesize_compat
hw.physicalcpu hw.physicalcpu_max kern.argmax kern.hostname kern.maxfilesperproc
kern.ngroups kern.osproductversion kern.osrelease kern.ostype kern.osversion
kern.usrstack64 kern.version sysctl.proc_cputype
"""


@dataclass(frozen=True)
class Places:
    """Real paths (no symbolic link in them), for one sandbox.

    Attributes:
        own: the sandbox's directory: the only place it may write.
        readable: directories it may read and run programs from.
        mounted: what the caller hands in: path to "read-only".
    """

    own: str
    readable: tuple[str, ...]
    mounted: tuple[tuple[str, bool], ...] = ()


def profile(places: Places) -> str:
    """The profile's text.

    Raises:
        InvalidPath: a path is not absolute, not plain, or holds a NUL.
    """
    readable = (*SYSTEM_PLACES, *PROGRAM_PLACES, *places.readable)
    readable += tuple(path for path, _ in places.mounted)
    writable = (places.own, *(path for path, read_only in places.mounted if not read_only))
    lines = [
        "(version 1)",
        "(deny default)",
        "(allow process-fork)",
        _rule("allow process-exec", _subpaths((*PROGRAM_PLACES, *places.readable, places.own))),
        "(allow signal (target same-sandbox))",
        "(allow process-info* (target same-sandbox))",
        _rule("allow sysctl-read", [f"(sysctl-name {quoted(name)})" for name in _SYSCTLS.split()]),
        _rule("allow mach-lookup", [f"(global-name {quoted(name)})" for name in MACH_SERVICES]),
        _rule("allow file-read-metadata", _literals(_ancestors((*readable, *writable)))),
        _rule("allow file-read*", [*_subpaths((*readable, *writable)), *_literals(("/",))]),
        _rule("allow file-read*", _literals(READABLE_DEVICES)),
        _rule("allow file-write*", _subpaths(writable)),
        _rule("allow file-read* file-write-data", _literals(WRITABLE_DEVICES)),
        # For terminals that were handed in; none can be opened, or the caller's own would be open.
        '(allow file-ioctl (literal "/dev/tty") (regex #"^/dev/ttys[0-9]+$"))',
        # Last, because the last rule that matches wins.
        "(deny file-write-setugid)",
        "(deny network*)",
    ]
    return "\n".join(lines) + "\n"


def quoted(text: str) -> str:
    """A string of the profile's language that means exactly `text`.

    Raises:
        InvalidPath: it holds a NUL, which no path can.
    """
    if "\0" in text:
        raise InvalidPath(f"{text!r} holds a NUL byte")
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + escaped.replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t") + '"'


def _rule(action: str, filters: list[str]) -> str:
    return f"({action}\n  " + "\n  ".join(filters) + ")"


def _subpaths(paths: Iterable[str]) -> list[str]:
    return [f"(subpath {quoted(_plain(path))})" for path in dict.fromkeys(paths)]


def _literals(paths: Iterable[str]) -> list[str]:
    return [f"(literal {quoted(path)})" for path in dict.fromkeys(paths)]


def _ancestors(paths: Iterable[str]) -> list[str]:
    return sorted({str(parent) for path in paths for parent in PurePosixPath(_plain(path)).parents})


def _plain(path: str) -> str:
    parts = path.split("/")
    if not path.startswith("/") or path == "/" or {"", ".", ".."} & set(parts[1:]):
        raise InvalidPath(f"{path!r} is not a plain absolute path")
    return path
