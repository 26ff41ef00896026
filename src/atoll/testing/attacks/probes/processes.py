"""Other processes: see them, signal them, trace them, read their memory, take their descriptors."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path

from atoll.testing.attacks.probes.kit import (
    Facts,
    Outcome,
    broke,
    call,
    error_name,
    held,
    in_child,
    read_some,
    tokens_in,
    worst,
)

_PTRACE_ATTACH, _PTRACE_DETACH, _PTRACE_SEIZE = 16, 17, 0x4206


def see_others(facts: Facts) -> Outcome:
    """Look for foreign command lines and environments in every /proc entry, listed or not."""
    found = []
    seen = 0
    for pid in range(1, 33000):
        for name in ("cmdline", "environ"):
            try:
                data = read_some(f"/proc/{pid}/{name}")
            except OSError:
                continue
            seen += 1
            found += [f"/proc/{pid}/{name}: {token}" for token in tokens_in(data, facts)]
    return broke("; ".join(found)) if found else held(f"{seen} files read, none of another's")


def _siginfo(number: int) -> bytes:
    si_queue = -1
    return struct.pack("3i", number, 0, si_queue) + bytes(116)


def signal_others(facts: Facts) -> Outcome:
    """Send SIGUSR1 by four calls to host pids; the canaries there record what arrived.

    A process of the sandbox itself may bear the same number, so success here proves nothing.
    """
    number = int(signal.SIGUSR1)
    sent = []
    for pid in facts["pids"]:
        for name, arguments in (
            ("tgkill", (pid, pid, number)),
            ("rt_sigqueueinfo", (pid, number, _siginfo(number))),
            ("rt_tgsigqueueinfo", (pid, pid, number, _siginfo(number))),
        ):
            if pid != os.getpid() and call(name, *arguments)[0] == 0:
                sent.append(f"{name} to {pid}")
        descriptor, _ = call("pidfd_open", pid, 0)
        if descriptor >= 0 and call("pidfd_send_signal", descriptor, number, None, 0)[0] == 0:
            sent.append(f"pidfd_send_signal to {pid}")
    return held(f"{len(facts['pids'])} pids; the kernel took: {sent or 'nothing'}")


def signal_guest(facts: Facts) -> Outcome:
    """Send the sandbox's PID 1 what would end or stop any other process."""
    del facts
    numbers = (signal.SIGKILL, signal.SIGSTOP, signal.SIGSEGV, signal.SIGQUIT, signal.SIGUSR2)
    for number in numbers:
        call("tgkill", 1, 1, int(number))
        try:
            os.kill(1, number)
        except OSError:
            continue
    state = _state_of(1)
    return broke(f"PID 1 is {state}") if state in ("T", "Z", "gone") else held(f"PID 1 is {state}")


def _state_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return "gone"


def trace(facts: Facts) -> Outcome:
    """Trace the target (PID 1) and read its memory, descriptors and secrets through /proc."""
    target = int(facts.get("target", 1))
    tried = [
        in_child(lambda: _ptrace(_PTRACE_SEIZE, target)),
        in_child(lambda: _ptrace(_PTRACE_ATTACH, target)),
        _read_memory(target),
        _take_descriptor(target),
        _compare_descriptors(target),
    ]
    tried += [_open_private(target, name) for name in ("mem", "environ", "maps", "stack")]
    tried += [_follow_private(target, name) for name in ("root", "cwd", "exe", "fd/0", "ns/net")]
    return worst(tried)


def _ptrace(request: int, target: int) -> Outcome:
    value, code = call("ptrace", request, target, None, None)
    if value == -1:
        return held(f"ptrace: {error_name(code)}")
    if request == _PTRACE_ATTACH:
        os.waitpid(target, 0)
        call("ptrace", _PTRACE_DETACH, target, None, None)
    return broke(f"ptrace attached to {target}")


def _read_memory(target: int) -> Outcome:
    """Read where our own C library lies: after a fork without exec it lies there in PID 1 too."""
    buffer = ctypes.create_string_buffer(64)
    address = ctypes.cast(ctypes.pythonapi.Py_GetVersion, ctypes.c_void_p).value or 0
    local = struct.pack("2Q", ctypes.addressof(buffer), 64)
    remote = struct.pack("2Q", address, 64)
    value, code = call("process_vm_readv", target, local, 1, remote, 1, 0)
    # EFAULT comes after the permission check: the access itself was granted.
    if value == -1 and code != errno.EFAULT:
        return held(f"process_vm_readv: {error_name(code)}")
    return broke(f"process_vm_readv reads the memory of {target}")


def _take_descriptor(target: int) -> Outcome:
    pidfd, code = call("pidfd_open", target, 0)
    if pidfd == -1:
        return held(f"pidfd_open: {error_name(code)}")
    for number in range(64):
        if call("pidfd_getfd", pidfd, number, 0)[0] >= 0:
            return broke(f"pidfd_getfd took descriptor {number} of {target}")
    return held("pidfd_getfd took nothing")


def _compare_descriptors(target: int) -> Outcome:
    value, code = call("kcmp", target, os.getpid(), 0, 0, 0)
    if value == -1 and code != errno.EBADF:
        return held(f"kcmp: {error_name(code)}")
    return broke(f"kcmp answers about {target}")


def _open_private(target: int, name: str) -> Outcome:
    """Open, and read: the permission of /proc/PID/stack is asked only then."""
    try:
        descriptor = os.open(f"/proc/{target}/{name}", os.O_RDONLY)
        try:
            if name != "mem":  # address 0 is never mapped
                os.read(descriptor, 16)
        finally:
            os.close(descriptor)
    except OSError as error:
        return held(f"/proc/{target}/{name}: {error_name(error.errno or 0)}")
    return broke(f"/proc/{target}/{name} opens")


def _follow_private(target: int, name: str) -> Outcome:
    try:
        seen = os.readlink(f"/proc/{target}/{name}")
    except OSError as error:
        return held(f"/proc/{target}/{name}: {error_name(error.errno or 0)}")
    return broke(f"/proc/{target}/{name} is {seen}")


def type_into_terminal(facts: Facts) -> Outcome:
    """TIOCSTI and TIOCLINUX: put bytes into the input of our own controlling terminal."""
    del facts
    return in_child(_inject)


def _inject() -> Outcome:
    master, slave = pty.openpty()
    os.setsid()
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    tried = []
    for byte in b"x\n":
        try:
            fcntl.ioctl(slave, termios.TIOCSTI, bytes([byte]))
        except OSError as error:
            tried.append(held(f"TIOCSTI: {error_name(error.errno or 0)}"))
    if not tried and os.read(slave, 16) == b"x\n":
        tried.append(broke("TIOCSTI typed into the terminal"))
    # The master stays open: closing it would end us, its session's leader, by SIGHUP.
    return worst(tried)


def tioclinux(facts: Facts) -> Outcome:
    """TIOCLINUX pastes into a virtual console: the filter refuses it before the terminal does."""
    del facts
    tioclinux_request = 0x541C
    tried = []
    master, slave = pty.openpty()
    for descriptor in (master, slave):
        try:
            fcntl.ioctl(descriptor, tioclinux_request, b"\x03")
            tried.append(broke("TIOCLINUX was accepted"))
        except OSError as error:
            code = error.errno or 0
            refusal = code in (errno.EPERM, errno.ENOSYS)
            tried.append(Outcome(refusal, f"TIOCLINUX: {error_name(code)}"))
    return worst(tried)


_STATUS = (
    "import re;print(re.findall('(Seccomp|NoNewPrivs):.(.)', open('/proc/self/status').read()))"
)


def leave_by_exec(facts: Facts) -> Outcome:
    """Run programs in disguise (loader, memfd, /proc/self/root): is the filter lost?"""
    del facts
    python = os.path.realpath(sys.executable)
    commands = {"python": [python, "-I", "-c", _STATUS]}
    for loader in ("/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1"):
        if os.path.exists(loader):
            commands["the loader"] = [loader, python, "-I", "-c", _STATUS]
    memfd = os.memfd_create("python", 0)
    os.write(memfd, Path(python).read_bytes())
    commands["a memfd"] = [f"/proc/self/fd/{memfd}", "-I", "-c", _STATUS]
    commands["/proc/self/root"] = [f"/proc/self/root{python}", "-I", "-c", _STATUS]
    tried = []
    for name, command in commands.items():
        done = subprocess.run(
            command, capture_output=True, text=True, pass_fds=[memfd], check=False
        )
        walls = dict(eval(done.stdout)) if done.stdout else {}
        kept = walls.get("Seccomp") == "2" and walls.get("NoNewPrivs") == "1"
        tried.append(Outcome(kept, f"{name}: {walls or done.stderr[-200:]}"))
    return worst(tried)


def kill_everything(facts: Facts) -> Outcome:
    """kill(-1, SIGKILL): what is left of the sandbox is for the host to say."""
    del facts
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.kill(-1, signal.SIGTERM)
    os.kill(-1, signal.SIGKILL)
    return held("everything in reach was killed")


def leave_zombies(facts: Facts) -> Outcome:
    """Orphan many children that exit at once: PID 1 has to reap them, or the pids run out."""
    count = int(facts["count"])
    for _ in range(count):
        child = os.fork()
        if child == 0:
            if os.fork() == 0:
                os._exit(0)
            os._exit(0)
        os.waitpid(child, 0)
    left = _zombies()
    for _ in range(50):
        if not left:
            break
        signal.sigtimedwait([], 0.1)
        left = _zombies()
    return broke(f"{left} zombies stay") if left else held(f"{count} orphans were reaped")


def _zombies() -> int:
    return sum(_state_of(int(name)) == "Z" for name in os.listdir("/proc") if name.isdigit())
