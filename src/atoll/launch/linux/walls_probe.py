"""Tries, in a throw-away process, what the walls need from this kernel and this account.

`run` starts a bare interpreter, which tries each thing in a fork of its own, in namespaces that
vanish with it. Nothing is left, and the caller, which may have threads, never forks itself.
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from atoll.launch.linux import syscalls, user_namespaces, walls_probe_nat

PATIENCE = 20.0
_PLACE = "/tmp"  # noqa: S108  any directory: a tmpfs is mounted over it in a private namespace
_ENTRY = """
import sys, types
for name in ("atoll", "atoll.launch", "atoll.launch.linux"):
    package = sys.modules[name] = types.ModuleType(name)
    package.__path__ = [sys.argv[1] + "/" + name.replace(".", "/")]
from atoll.launch.linux.walls_probe import main
main()
"""


def run() -> dict[str, str]:
    """What was tried, by name: "" if it worked, else the step and the errno.

    Names: ``user namespace``, ``mount in it``, ``overlay in it``, ``user attributes on tmpfs``,
    ``proc in it``, ``NAT in it``, ``seccomp``, and as root ``idmapped lower``.
    """
    source = str(Path(__file__).parents[3])
    try:
        done = subprocess.run(
            [os.path.realpath(sys.executable), "-I", "-S", "-c", _ENTRY, source],
            capture_output=True,
            timeout=PATIENCE,
            env={},
            check=False,
        )
        found = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        return {"user namespace": f"the probe did not answer: {error}"}
    return {str(name): str(text) for name, text in found.items()}


def main() -> None:
    """Entry of the bare interpreter."""
    probes: dict[str, Callable[[], None]] = {
        "user namespace": lambda: syscalls.unshare(syscalls.CLONE_NEWUSER),
        "mount in it": _private_tmpfs,
        "overlay in it": _overlay,
        "user attributes on tmpfs": _user_attributes,
        "proc in it": _proc,
        "NAT in it": _nat,
        "seccomp": _seccomp,
    }
    if os.geteuid() == 0:
        probes["idmapped lower"] = _idmapped_lower
    sys.stdout.write(json.dumps({name: _in_fork(probe) for name, probe in probes.items()}))


def _in_fork(probe: Callable[[], None]) -> str:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            probe()
            text = ""
        except OSError as error:
            text = f"{error.strerror} ({errno.errorcode.get(error.errno or 0, error.errno)})"
        except BaseException as error:  # noqa: B036  a fork of the probe must end here
            text = repr(error)
        os.write(writer, text.encode()[:1000])
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as stream:
        text = stream.read().decode(errors="replace")
    _, status = os.waitpid(pid, 0)
    return text if status == 0 else f"the probe ended with status {status:#x}"


def _private_tmpfs() -> None:
    """A tmpfs over `_PLACE`, in new user and mount namespaces in which we are root."""
    uid, gid = os.geteuid(), os.getegid()
    syscalls.unshare(syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNS)
    for file, text in (
        ("setgroups", "deny"),
        ("uid_map", f"0 {uid} 1"),
        ("gid_map", f"0 {gid} 1"),
    ):
        Path("/proc/self", file).write_text(text)
    syscalls.mount("tmpfs", _PLACE, "tmpfs", 0, "size=1m")


def _directories() -> str:
    for name in ("lower", "upper", "work", "merged"):
        Path(_PLACE, name).mkdir()
    return f"upperdir={_PLACE}/upper,workdir={_PLACE}/work,userxattr"


def _overlay() -> None:
    _private_tmpfs()
    options = f"lowerdir={_PLACE}/lower,{_directories()}"
    syscalls.mount("overlay", f"{_PLACE}/merged", "overlay", 0, options)


def _user_attributes() -> None:
    _private_tmpfs()
    file = Path(_PLACE, "file")
    file.touch()
    os.setxattr(file, "user.atoll", b"1")


def _proc() -> None:
    """/proc of a new pid namespace: refused where the parent's /proc is partly covered."""
    _private_tmpfs()
    syscalls.unshare(syscalls.CLONE_NEWPID)
    pid = os.fork()
    if pid == 0:
        try:
            Path(_PLACE, "proc").mkdir()
            syscalls.mount("proc", f"{_PLACE}/proc", "proc", 0)
        except OSError as error:
            os._exit(error.errno or 255)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status:
        raise OSError(status, f"mount proc: {os.strerror(status)}")


def _nat() -> None:
    syscalls.unshare(syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNET)
    walls_probe_nat.make_nat_chain()


def _seccomp() -> None:
    """A filter of one instruction, "allow" (SECCOMP_RET_ALLOW)."""
    syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
    syscalls.install_filter(b"\x06\x00\x00\x00\x00\x00\xff\x7f")


def _idmapped_lower() -> None:
    """An overlay on a lower that is mapped to other ids: Linux 5.19, the first namespace's root."""
    users = _mapped_user_namespace()
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount("", "/", "", syscalls.MS_REC | syscalls.MS_PRIVATE)
    syscalls.mount("tmpfs", _PLACE, "tmpfs", 0, "size=1m")
    upper = _directories()
    # The lower is the machine's own /usr: what filesystem it lies on decides, too.
    lower = syscalls.open_tree("/usr")
    syscalls.mount_setattr(lower, syscalls.MOUNT_ATTR_IDMAP, users)
    syscalls.move_mount(lower, f"{_PLACE}/lower")
    options = f"lowerdir={_PLACE}/lower,{upper}"
    syscalls.mount("overlay", f"{_PLACE}/merged", "overlay", 0, options)


def _mapped_user_namespace() -> int:
    """A user namespace that maps its ids 0 to 999 to others of ours."""
    ids = "0 1879048192 1000"
    return user_namespaces.create(
        become=lambda: None,
        map_ids=lambda pid: user_namespaces.write_maps(pid, ids, ids),
        limits={},
    )
