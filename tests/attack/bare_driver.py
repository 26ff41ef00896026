"""Runs one probe where no wall is: as root, with every capability, beside a canary.

Called as ``unshare … python bare_driver.py MODULE FUNCTION FACTS``. "No wall" is meant for the
canary, not for the machine: the mount, pid, network, ipc and uts namespaces are throw-away, and the
root is an overlay whose writes go to memory. Nothing here removes anything: all of it goes with the
namespaces, so that no removal can follow what a probe has mounted.
"""

from __future__ import annotations

import fcntl
import importlib
import json
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path

from atoll.testing.attacks.canaries import HostCanary, Token
from atoll.testing.attacks.host import facts_about_host
from atoll.testing.attacks.probes.kit import call, error_name
from atoll.testing.attacks.script import compose

_SIOCSIFADDR, _SIOCSIFFLAGS = 0x8916, 0x8914
_MS_BIND, _MS_REC, _MS_REMOUNT, _MS_RDONLY = 0x1000, 0x4000, 0x20, 0x1
_MNT_DETACH = 2
_STAGE = "/tmp"


def _mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    text = None if data is None else data.encode()
    name = None if kind is None else kind.encode()
    value, code = call("mount", source.encode(), target.encode(), name, flags, text)
    if value != 0:
        raise SystemExit(f"mount of {source} on {target}: {error_name(code)}")


def _enter_copy_of_root() -> None:
    """Pivot into an overlay over the machine's root, which is then out of reach."""
    _mount("stage", _STAGE, "tmpfs", 0, "mode=755")
    for name in ("upper", "work", "root"):
        Path(_STAGE, name).mkdir()
    root = f"{_STAGE}/root"
    options = f"lowerdir=/,upperdir={_STAGE}/upper,workdir={_STAGE}/work"
    _mount("overlay", root, "overlay", 0, options)
    _mount("proc", f"{root}/proc", "proc", 0)
    _mount("/sys", f"{root}/sys", None, _MS_BIND | _MS_REC)
    _mount("/dev", f"{root}/dev", None, _MS_BIND | _MS_REC)
    # Device nodes of a read-only mount still open for writing; files cannot be made beside them.
    _mount("none", f"{root}/dev", None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY)
    _mount("shm", f"{root}/dev/shm", "tmpfs", 0)
    Path(root, "tmp/old").mkdir()
    directory = Path.cwd()
    os.chdir(root)
    if call("pivot_root", b".", b"tmp/old")[0] != 0 or call("umount2", b"/tmp/old", _MNT_DETACH)[0]:
        raise SystemExit("the machine's root could not be left")
    os.chdir(directory)
    table = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    kept = ("/proc", "/sys", "/dev")
    strange = [row for row in table if row[4] != "/" and not row[4].startswith(kept)]
    roots = [row[row.index("-") + 1] for row in table if row[4] == "/"]
    if strange or roots != ["overlay"]:
        raise SystemExit(f"the machine's root is still in reach: {strange or roots}")


def _set_up_loopback() -> None:
    """Up, and with the metadata service's address on an alias, so that there is a way to it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", 0x49))
        address = struct.pack("HH4s8x", socket.AF_INET, 0, socket.inet_aton("169.254.169.254"))
        fcntl.ioctl(control, _SIOCSIFADDR, struct.pack("16s16s", b"lo:1", address))


def _prepare(facts: dict[str, object]) -> None:
    """Files and read-only mounts that a test asks for."""
    for path in facts.get("make", ()):  # type: ignore[attr-defined]
        Path(path).write_text("before")
    for path in facts.get("targets", ()):  # type: ignore[attr-defined]
        Path(path).mkdir()
        _mount(path, path, None, _MS_BIND)
        _mount("none", path, None, _MS_BIND | _MS_REMOUNT | _MS_RDONLY)


def main() -> None:
    module, function, extra = sys.argv[1:4]
    probe = getattr(importlib.import_module(module), function)
    asked = json.loads(extra)
    _enter_copy_of_root()
    _set_up_loopback()
    _prepare(asked)
    os.set_inheritable(os.open("/", os.O_RDONLY), True)
    engine_token = Token("engine")
    with HostCanary() as canary:
        facts = facts_about_host(canary, "/", engine_token)
        facts["target"] = facts["pids"][0]
        facts.update(asked)
        done = subprocess.run(
            ["/usr/bin/python3", "-I", "-c", compose(probe, facts)],
            capture_output=True,
            text=True,
            env={**os.environ, "ATOLL_ENGINE": engine_token.text},
            errors="replace",
            check=False,
            stdin=subprocess.DEVNULL,
            close_fds=False,
        )
        harmed = canary.events() + ([] if canary.alive() else ["killed"])
        seen = {
            path: Path(path).read_text() for path in asked.get("look", []) if Path(path).exists()
        }
    report = {"output": done.stdout, "errors": done.stderr[-2000:], "harmed": harmed, "seen": seen}
    print(json.dumps(report))


if __name__ == "__main__":
    main()
