"""The filters, installed for real in forked children on this machine's kernel."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from filtered import call, in_child, install

from atoll.launch.linux import seccomp, seccomp_library
from atoll.launch.linux import seccomp_lists as lists

OUTER = seccomp.outer_filter()
INNER = seccomp.inner_filter()
NUMBERS = {**lists.COMMON_NUMBERS, **lists.NUMBERS[platform.machine()]}


def number(name: str) -> int:
    """The number of a call here, from libseccomp's tables."""
    found = seccomp_library.load().seccomp_syscall_resolve_name(name.encode())
    return int(found)


def test_dangerous_calls_are_not_permitted() -> None:
    numbers = {name: number(name) for name in lists.REFUSED if number(name) >= 0}
    said = in_child(lambda: {name: call(n) for name, n in numbers.items()}, OUTER)
    assert set(said.values()) == {"EPERM"}, said


def test_unknown_calls_are_absent() -> None:
    assert in_child(lambda: [call(n) for n in (600, 1000)], OUTER) == ["ENOSYS", "ENOSYS"]


def test_the_inner_filter_takes_away_what_builds() -> None:
    def attempt() -> dict[str, str]:
        return {name: call(NUMBERS[name]) for name in (*lists.BUILDERS, "clone3")}

    said = in_child(attempt, OUTER, INNER)
    assert said.pop("clone3") == "ENOSYS"
    assert set(said.values()) == {"EPERM"}


@pytest.mark.parametrize(
    "flag", [1 << bit for bit in range(32) if lists.CLONE_NEW_FLAGS >> bit & 1]
)
def test_clone_with_a_namespace_is_not_permitted(flag: int) -> None:
    said = in_child(lambda: call(NUMBERS["clone"], flag | signal.SIGCHLD), OUTER, INNER)
    assert said == "EPERM"


def test_namespaces_stay_open_to_a_zygote() -> None:
    def attempt() -> str:
        # A user namespace is what an ordinary user may make, too.
        return call(NUMBERS["unshare"], 0x10000000)

    expected = in_child(attempt)
    assert in_child(attempt, OUTER) == expected


def test_forks_threads_and_programs_work_behind_both() -> None:
    def attempt() -> list[str]:
        thread = threading.Thread(target=lambda: None)
        thread.start()
        thread.join()
        done = subprocess.run(["/bin/echo", "hello"], capture_output=True, text=True, check=True)
        pid = os.fork()
        if pid == 0:
            os._exit(7)
        return [done.stdout, str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))]

    assert in_child(attempt, OUTER, INNER) == ["hello\n", "7"]


def test_sockets_by_family() -> None:
    def attempt() -> dict[str, str]:
        said = {}
        for name, family, kind, protocol in (
            ("unix", socket.AF_UNIX, socket.SOCK_STREAM, 0),
            ("inet", socket.AF_INET, socket.SOCK_STREAM, 0),
            ("route", socket.AF_NETLINK, socket.SOCK_RAW, 0),
            ("netfilter", socket.AF_NETLINK, socket.SOCK_RAW, 12),
            ("audit", socket.AF_NETLINK, socket.SOCK_RAW, 9),
            ("packet", socket.AF_PACKET, socket.SOCK_RAW, 0),
            ("vsock", 40, socket.SOCK_STREAM, 0),
            ("alg", 38, socket.SOCK_SEQPACKET, 0),
        ):
            try:
                socket.socket(family, kind, protocol).close()
                said[name] = "ok"
            except OSError as error:
                said[name] = errno.errorcode[error.errno or 0]
        return said

    assert in_child(attempt, OUTER) == {
        "unix": "ok",
        "inet": "ok",
        "route": "ok",
        "netfilter": "EPROTONOSUPPORT",
        "audit": "EPROTONOSUPPORT",
        "packet": "EAFNOSUPPORT",
        "vsock": "EAFNOSUPPORT",
        "alg": "EAFNOSUPPORT",
    }


def test_terminal_injection_is_not_permitted_on_a_real_terminal() -> None:
    def attempt() -> list[str]:
        _, terminal = os.openpty()
        ioctl = NUMBERS["ioctl"]
        window = ctypes.create_string_buffer(8)
        return [
            call(ioctl, terminal, 0x5413, ctypes.addressof(window)),
            call(ioctl, terminal, 0x5412, ctypes.addressof(window)),
            call(ioctl, terminal, 1 << 32 | 0x5412, ctypes.addressof(window)),
            call(ioctl, terminal, 0x541C, ctypes.addressof(window)),
        ]

    assert in_child(attempt, OUTER) == ["ok", "EPERM", "EPERM", "EPERM"]


def test_address_randomisation_cannot_be_turned_off() -> None:
    def attempt() -> list[str]:
        personality = NUMBERS["personality"]
        return [call(personality, 0xFFFFFFFF), call(personality, 0x0040000)]

    assert in_child(attempt, OUTER) == ["ok", "EPERM"]


@pytest.mark.skipif(platform.machine() != "x86_64", reason="int 0x80 and x32 are of x86-64")
def test_i386_and_x32_calls_are_absent() -> None:
    def through_int_80() -> int:
        # mov eax, 20 (getpid of i386); int 0x80; ret
        code = b"\xb8\x14\x00\x00\x00\xcd\x80\xc3"
        page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        page.write(code)
        address = ctypes.addressof(ctypes.c_char.from_buffer(page))
        return int(ctypes.CFUNCTYPE(ctypes.c_int)(address)())

    pid = os.fork()
    if pid == 0:
        os._exit(0 if through_int_80() > 0 else 1)
    if os.waitpid(pid, 0)[1] == 0:
        assert in_child(through_int_80, OUTER) == -errno.ENOSYS
    assert in_child(lambda: call(0x40000000 | 39), OUTER) == "ENOSYS"


PROGRAMS = {
    "python3": [
        sys.executable,
        "-c",
        "import ssl, subprocess, asyncio; asyncio.run(asyncio.sleep(0))",
    ],
    "node": ["node", "-e", "require('fs').readFileSync('/etc/passwd'); setTimeout(()=>{}, 1)"],
    "git": ["git", "init", "repository"],
    "gcc": ["gcc", "-pthread", "-o", "program", "program.c"],
    "strace": ["strace", "-f", "-o", "trace", "/bin/true"],
    "gdb": ["gdb", "-batch", "-ex", "starti", "-ex", "info registers", "/bin/true"],
    "apt-get": ["apt-get", "--version"],
    "dpkg": ["dpkg", "--version"],
    "tar": ["tar", "cf", "archive.tar", "program.c"],
    "perl": ["perl", "-e", "fork // die; wait;"],
    "bash": ["bash", "-c", "echo <(true) | cat; ls /proc/self/fd > /dev/null; ulimit -n"],
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_work_as_in_a_container(name: str, tmp_path: Path) -> None:
    if name != "python3" and shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    (tmp_path / "program.c").write_text("int main(void) { return 0; }\n")
    done = subprocess.run(
        PROGRAMS[name],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        preexec_fn=lambda: install(OUTER, INNER),
        timeout=50,
    )
    assert done.returncode == 0, done.stderr
    assert "Operation not permitted" not in done.stderr.replace(
        "Error disabling address space randomization: Operation not permitted", ""
    )
