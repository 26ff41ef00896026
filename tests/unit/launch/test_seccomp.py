"""The filters, asked about every call: numbers by the kernel's headers, answers by emulation."""

from __future__ import annotations

import errno
import re
from pathlib import Path

import bpf_machine
import pytest
from bpf_machine import AARCH64, ARM, I386, X86_64, answer

from atoll.launch.linux import seccomp, seccomp_library
from atoll.launch.linux import seccomp_lists as lists
from atoll.launch.linux.seccomp_bpf import Assembler
from atoll.model import WallUnavailable

HEADERS = {
    "x86_64": (Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"), r"__NR_(\w+)\s+(\d+)"),
    "aarch64": (Path("/usr/include/asm-generic/unistd.h"), r"__NR3?2?6?4?_?(\w+)\s+(\d+)"),
}
TOKEN = {"x86_64": X86_64, "aarch64": AARCH64}
OTHER_NAMES = {"syscalls", "fadvise64_64", "fstatat", "sync_file_range2"}
"""Second names of one number in the generic header, and its count of calls."""
ARCHITECTURES = ("x86_64", "aarch64")


def header_numbers(arch: str) -> dict[str, int]:
    path, pattern = HEADERS[arch]
    if not path.exists():
        pytest.skip(f"{path} is missing: apt-get install linux-libc-dev")
    return {name: int(number) for name, number in re.findall(pattern, path.read_text())}


@pytest.fixture(scope="module", params=ARCHITECTURES)
def arch(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def outer(arch: str) -> bytes:
    return seccomp.outer_filter(arch)


@pytest.fixture(scope="module")
def inner(arch: str) -> bytes:
    return seccomp.inner_filter(arch)


def test_hand_written_numbers_are_those_of_the_kernel_headers(arch: str) -> None:
    known = header_numbers(arch)
    for name, number in {**lists.NUMBERS[arch], **lists.COMMON_NUMBERS}.items():
        assert known.get(name, number) == number, name
    for name, number in lists.NEWER.items():
        assert known.get(name, number) == number, name
    assert len(set(lists.NUMBERS[arch].values())) == len(lists.NUMBERS[arch])


def test_no_name_is_in_two_lists() -> None:
    names = [*lists.ALLOWED, *lists.REFUSED]
    assert len(names) == len(set(names))


def test_every_name_of_the_lists_exists() -> None:
    with seccomp_library.Filter("x86_64", default=0x50026, bad_architecture=0x50026) as program:
        unknown = {n for n in (*lists.ALLOWED, *lists.REFUSED) if program.number(n) is None}
    assert unknown <= {*lists.NEWER, *lists.NEWER_X86}


def test_outer_answers_every_call_of_the_header_as_the_lists_say(arch: str, outer: bytes) -> None:
    for name, number in header_numbers(arch).items():
        said = answer(outer, TOKEN[arch], number)
        if name in ("socket", "socketpair"):
            continue
        if name in lists.ALLOWED:
            assert said.allowed, name
        elif name in lists.REFUSED:
            assert said.errno == errno.EPERM, name
        elif name not in OTHER_NAMES:
            assert not said.allowed, name


@pytest.mark.parametrize("number", [470, 600, 1000, 0x3FFFFFFF, -1])
def test_outer_answers_unknown_calls_as_a_kernel_without_them(
    arch: str, outer: bytes, number: int
) -> None:
    assert answer(outer, TOKEN[arch], number).errno == errno.ENOSYS


def test_outer_refuses_every_call_of_other_architectures(arch: str, outer: bytes) -> None:
    for token in {X86_64, AARCH64, I386, ARM, 0} - {TOKEN[arch]}:
        for number in range(600):
            said = answer(outer, token, number, 1)
            assert not said.allowed, (hex(token), number)


def test_outer_refuses_every_x32_call() -> None:
    program = seccomp.outer_filter("x86_64")
    for number in range(600):
        assert answer(program, X86_64, number | 0x40000000).errno == errno.ENOSYS


@pytest.mark.parametrize("high", [0, 1 << 32, 0xFFFFFFFF << 32])
@pytest.mark.parametrize("request_number", lists.TERMINAL_INJECTION)
def test_outer_refuses_terminal_injection_whatever_the_high_bits(
    arch: str, outer: bytes, request_number: int, high: int
) -> None:
    number = lists.NUMBERS[arch]["ioctl"]
    assert answer(outer, TOKEN[arch], number, 0, high | request_number).errno == errno.EPERM


def test_outer_allows_other_ioctls(arch: str, outer: bytes) -> None:
    number = lists.NUMBERS[arch]["ioctl"]
    for request_number in (0x5401, 0x5413, 0x541B, 0xFFFFFFFF80045430, 0x5411, 0x5413):
        assert answer(outer, TOKEN[arch], number, 0, request_number).allowed


def test_outer_allows_sockets_by_family(arch: str, outer: bytes) -> None:
    number = lists.NUMBERS[arch]["socket"]
    for family in range(64):
        said = answer(outer, TOKEN[arch], number, family, 1, 0)
        high = answer(outer, TOKEN[arch], number, family | 1 << 32, 1, 0)
        assert said == high
        if family in (1, 2, 10, 16):
            assert said.allowed, family
        else:
            assert said.errno == errno.EAFNOSUPPORT, family


def test_outer_allows_only_the_route_protocol_of_netlink(arch: str, outer: bytes) -> None:
    number = lists.NUMBERS[arch]["socket"]
    for protocol in range(1, 32):
        said = answer(outer, TOKEN[arch], number, 16, 3, protocol)
        assert said.errno == errno.EPROTONOSUPPORT, protocol


def test_outer_allows_only_unix_socket_pairs(arch: str, outer: bytes) -> None:
    number = lists.NUMBERS[arch]["socketpair"]
    allowed = [f for f in range(64) if answer(outer, TOKEN[arch], number, f, 1, 0).allowed]
    assert allowed == [1]


def test_outer_allows_the_personalities_of_the_container_engines(arch: str, outer: bytes) -> None:
    number = lists.NUMBERS[arch]["personality"]
    for value in (0, 8, 0x20000, 0x20008, 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF):
        assert answer(outer, TOKEN[arch], number, value).allowed, hex(value)
    for value in (0x40000, 0x0400000, 0x100000, 0x40008, 3, 1 << 32 | 0x40000):
        assert answer(outer, TOKEN[arch], number, value).errno == errno.EPERM, hex(value)


def test_outer_leaves_the_zygotes_what_they_build_with(arch: str, outer: bytes) -> None:
    number = {**lists.COMMON_NUMBERS, **lists.NUMBERS[arch]}
    newer = set() if arch == "x86_64" else {"open_tree_attr"}
    for name in {*lists.BUILDERS, "clone", "clone3"} - newer:
        assert answer(outer, TOKEN[arch], number[name], 0x7E020000).allowed, name


def test_inner_closes_what_builds_and_nothing_else(arch: str, inner: bytes) -> None:
    numbers = {**lists.COMMON_NUMBERS, **lists.NUMBERS[arch]}
    closed = {numbers[name] for name in lists.BUILDERS}
    for number in range(600):
        said = answer(inner, TOKEN[arch], number)
        if number in closed:
            assert said.errno == errno.EPERM, number
        elif number == numbers["clone3"]:
            assert said.errno == errno.ENOSYS
        else:
            assert said.allowed, number


def test_inner_refuses_clone_with_any_namespace(arch: str, inner: bytes) -> None:
    clone = lists.NUMBERS[arch]["clone"]
    for bit in range(32):
        said = answer(inner, TOKEN[arch], clone, 1 << bit | 17)
        assert said.allowed == (not 1 << bit & lists.CLONE_NEW_FLAGS), hex(1 << bit)
    threads = 0x3D0F00
    assert answer(inner, TOKEN[arch], clone, threads).allowed


def test_filters_stay_small(inner: bytes, outer: bytes) -> None:
    assert len(inner) // 8 <= 25
    assert len(outer) // 8 <= 600


def test_an_architecture_without_lists_is_refused() -> None:
    for build in (seccomp.outer_filter, seccomp.inner_filter):
        with pytest.raises(WallUnavailable, match="riscv64"):
            build("riscv64")


def test_a_missing_library_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seccomp_library, "SONAME", "libseccomp-missing.so.2")
    with pytest.raises(WallUnavailable, match="apt-get install libseccomp2"):
        seccomp.outer_filter()


def test_the_assembler_refuses_a_jump_that_its_byte_cannot_hold() -> None:
    code = Assembler()
    code.if_equal(1, "end")
    for _ in range(256):
        code.load(0)
    code.label("end")
    with pytest.raises(ValueError, match="jump to end"):
        code.assemble()


def test_the_machine_knows_only_what_it_was_taught() -> None:
    with pytest.raises(ValueError, match="unknown instruction"):
        bpf_machine.answer(b"\x00\x00\x00\x00\x00\x00\x00\x00", X86_64, 0)
