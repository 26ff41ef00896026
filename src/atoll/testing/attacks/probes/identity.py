"""Who the code is: capabilities, the filter, ids, and the ways to become more."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from atoll.testing.attacks.probes.kit import (
    Facts,
    Outcome,
    broke,
    call,
    error_name,
    held,
    in_child,
    worst,
)

# capability(7): CHOWN 0, DAC_OVERRIDE 1, FOWNER 3, FSETID 4, KILL 5, SETGID 6, SETUID 7,
# SYS_CHROOT 18, SETFCAP 31.
ROOT_CAPABILITIES = sum(1 << bit for bit in (0, 1, 3, 4, 5, 6, 7, 18, 31))


def _status() -> dict[str, str]:
    lines = Path("/proc/self/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def walls_on_self(facts: Facts) -> Outcome:
    """Seccomp 2, NoNewPrivs 1, and exactly the documented capabilities in each of the five sets."""
    del facts
    status = _status()
    wanted = ROOT_CAPABILITIES if os.geteuid() == 0 else 0
    tried = [
        Outcome(status["Seccomp"] == "2", f"Seccomp {status['Seccomp']}"),
        Outcome(status["NoNewPrivs"] == "1", f"NoNewPrivs {status['NoNewPrivs']}"),
    ]
    for name in ("CapPrm", "CapEff", "CapBnd"):
        tried.append(Outcome(int(status[name], 16) == wanted, f"{name} {status[name]}"))
    for name in ("CapInh", "CapAmb"):
        # Empty, or what the other sets hold anyway.
        tried.append(Outcome(int(status[name], 16) in (0, wanted), f"{name} {status[name]}"))
    return worst(tried)


def take_capabilities(facts: Facts) -> Outcome:
    """Ask for every capability by capset and by the ambient set, then look at what is there."""
    del facts
    return in_child(_take_capabilities)


def _take_capabilities() -> Outcome:
    before = int(_status()["CapEff"], 16)
    header = struct.pack("Ii", 0x20080522, 0)
    every = struct.pack("6I", *([0xFFFFFFFF] * 3), *([0x1FF] * 3))
    call("capset", header, every)
    for bit in range(64):
        one = struct.pack("6I", *([before & 0xFFFFFFFF | 1 << bit & 0xFFFFFFFF] * 3), 0, 0, 0)
        call("capset", header, one)
        call("prctl", 47, 2, bit, 0, 0)  # PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE
    after = int(_status()["CapEff"], 16)
    dangerous = after & ~ROOT_CAPABILITIES if os.geteuid() == 0 else after
    if dangerous:
        return broke(f"capabilities {after:#x}")
    return held(f"capabilities stay {after:#x}")


def become_another(facts: Facts) -> Outcome:
    """As `user`: every call that changes an id. As root: ids that no map gives to this sandbox."""
    del facts
    own = (os.getuid(), os.getgid())
    wanted = 0 if own[0] else 1 << 24
    attempts: tuple[Callable[[], None], ...] = (
        lambda: os.setuid(wanted),
        lambda: os.setresuid(-1, wanted, -1),
        lambda: os.setgid(wanted),
        lambda: os.setresgid(-1, wanted, -1),
        lambda: os.setgroups([wanted]),
    )
    return worst([in_child(partial(_became, attempt)) for attempt in attempts])


def _became(attempt: Callable[[], None]) -> Outcome:
    attempt()
    return broke(f"became {os.getresuid()} {os.getresgid()} {os.getgroups()}")


_TELL = (
    "import os;print(os.geteuid(), open('/proc/self/status').read().split('CapPrm:')[1].split()[0])"
)


def gain_by_file(facts: Facts) -> Outcome:
    """As root make setuid and file-capability copies of Python; as uid 1000 run them."""
    del facts
    if os.geteuid() != 0:
        return _run_setuid_programs()
    tried = []
    for directory in ("/tmp", "/home/user", "/usr/local/bin", "/opt", "/var/tmp", "/dev/shm"):
        for kind in ("setuid", "capability"):
            program = os.path.join(directory, f"atoll-attack-{kind}")
            try:
                _arm(program, kind)
                tried.append(_as_user(program, kind))
            except OSError as error:
                tried.append(held(f"{program}: {error_name(error.errno or 0)}"))
            with contextlib.suppress(OSError):
                os.unlink(program)
    return worst(tried)


def _arm(program: str, kind: str) -> None:
    shutil.copyfile(os.path.realpath(sys.executable), program)
    os.chmod(program, 0o755)
    if kind == "setuid":
        os.chmod(program, 0o6755)
    else:
        # struct vfs_cap_data, revision 2: every capability permitted (capabilities(7)); without the
        # effective bit, which makes exec fail where the bounding set lacks one of them.
        value = struct.pack("<5I", 0x02000000, 0xFFFFFFFF, 0, 0x1FF, 0)
        os.setxattr(program, "security.capability", value)


def _as_user(program: str, kind: str) -> Outcome:
    def drop() -> None:
        os.setgroups([])
        os.setresgid(1000, 1000, 1000)
        os.setresuid(1000, 1000, 1000)

    # -E and -s only: -I is what the set-uid guard of the interpreter would imply anyway.
    done = subprocess.run(
        [program, "-I", "-S", "-c", _TELL],
        capture_output=True,
        text=True,
        preexec_fn=drop,
        check=False,
        cwd="/",
    )
    if not done.stdout:
        return held(f"{kind} at {program} does not run: {done.stderr.strip()[-100:]}")
    euid, capabilities = done.stdout.split()
    if euid == "0" or int(capabilities, 16):
        return broke(f"{kind} at {program}: euid {euid}, capabilities {capabilities}")
    return held(f"{kind} at {program}: nothing gained")


def _run_setuid_programs() -> Outcome:
    """As `user`: a setuid program of the template must not start with another id."""
    programs = [p for d in ("/usr/bin", "/usr/sbin", "/bin") for p in _setuid_in(d)]
    tried = []
    for program in programs:
        child = subprocess.Popen(
            ["/bin/sh", "-c", f"exec {program} 0</dev/null"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            text = Path(f"/proc/{child.pid}/status").read_text()
        except OSError:
            text = ""
        child.kill()
        child.wait()
        uids = [line.split()[1:] for line in text.splitlines() if line.startswith("Uid:")]
        gained = bool(uids) and "0" in uids[0]
        tried.append(Outcome(not gained, f"{program}: {'root' if gained else 'no gain'}"))
    if _status()["NoNewPrivs"] != "1":
        tried.append(broke("NoNewPrivs is not set: setuid programs gain"))
    return worst(tried or [held("no setuid program is visible")])


def _setuid_in(directory: str) -> list[str]:
    try:
        entries = [e for e in os.scandir(directory) if e.is_file(follow_symlinks=False)]
    except OSError:
        return []
    return [e.path for e in entries if e.stat(follow_symlinks=False).st_mode & 0o6000]


def drop_the_filter(facts: Facts) -> Outcome:
    """Turn seccomp, no_new_privs and the bounding set back by prctl and seccomp."""
    del facts

    def attempt() -> Outcome:
        call("prctl", 22, 0, 0, 0, 0)  # PR_SET_SECCOMP, SECCOMP_MODE_DISABLED
        call("prctl", 38, 0, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
        call("prctl", 28, 0, 0, 0, 0)  # PR_SET_SECUREBITS
        allow = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0x7FFF0000))
        program = struct.pack("H6xQ", 1, ctypes.addressof(allow))
        call("seccomp", 1, 0, program)
        status = _status()
        kept = status["Seccomp"] == "2" and status["NoNewPrivs"] == "1"
        still = call("keyctl", 0, -3, 1)[0] == -1
        return Outcome(kept and still, f"Seccomp {status['Seccomp']}, refusals kept: {still}")

    return in_child(attempt)


def raise_limits(facts: Facts) -> Outcome:
    """Raise every hard limit by setrlimit and prlimit, and the priority by three calls."""
    del facts
    return worst([in_child(_raise_rlimits), in_child(_raise_priority)])


def _raise_rlimits() -> Outcome:
    import resource

    tried = []
    for name in ("NOFILE", "FSIZE", "NPROC", "CORE", "MEMLOCK", "SIGPENDING", "RTPRIO", "NICE"):
        number = getattr(resource, f"RLIMIT_{name}", None)
        if number is None:
            continue
        hard = resource.getrlimit(number)[1]
        if hard == resource.RLIM_INFINITY:
            continue
        try:
            resource.setrlimit(number, (hard + 1, hard + 1))
            tried.append(broke(f"{name} raised above {hard}"))
        except (OSError, ValueError):
            tried.append(held(f"{name} stays {hard}"))
    return worst(tried or [broke("no limit is set at all")])


def _raise_priority() -> Outcome:
    tried = []
    attempts: dict[str, Callable[[], object]] = {
        "nice": lambda: os.setpriority(os.PRIO_PROCESS, 0, -20),
        "real time": lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)),
        "oom_score_adj": lambda: Path("/proc/self/oom_score_adj").write_text("-1000"),
    }
    for name, attempt in attempts.items():
        try:
            attempt()
            tried.append(broke(f"{name} raised"))
        except OSError:
            tried.append(held(f"{name} refused"))
    return worst(tried)
