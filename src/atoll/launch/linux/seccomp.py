"""The two system call filters of a sandbox, as BPF programs for the `seccomp(2)` call.

outer: the whole allow-list, installed once in each zygote and inherited by every fork. It costs
one install a template, and since Linux 5.11 the kernel remembers which calls are always allowed.
inner: a few instructions, added in each child as the last step: they take away what built the
sandbox.

A call from another architecture (i386, x32; AArch32) is answered ENOSYS, like a call that the
kernel does not have. Killing would be no tighter, since no such call ever runs, and it would let a
sandbox write one audit record of the host for each process that it throws away.
"""

from __future__ import annotations

import errno
import platform

from atoll.launch.linux import seccomp_lists as lists
from atoll.launch.linux.seccomp_bpf import ALLOW, NUMBER, Assembler, argument, errno_action
from atoll.launch.linux.seccomp_library import Filter
from atoll.model import WallUnavailable

_NOT_KNOWN = errno_action(errno.ENOSYS)
_NOT_PERMITTED = errno_action(errno.EPERM)


def outer_filter(arch: str | None = None) -> bytes:
    """The allow-list for a zygote and all that is forked from it.

    Args:
        arch: ``x86_64`` or ``aarch64``; None means this machine's.

    Raises:
        WallUnavailable: no libseccomp, or an architecture that has no list.
    """
    arch = _known(arch)
    return _argument_rules(arch) + _allow_list(arch)


def inner_filter(arch: str | None = None) -> bytes:
    """What each sandbox adds: no mounting, no namespaces, no clone3.

    It checks no architecture: the outer filter refuses all calls of other ones, and the stricter
    answer of two filters wins. Never install it alone.

    Raises:
        WallUnavailable: an architecture that has no list.
    """
    number = {**lists.COMMON_NUMBERS, **lists.NUMBERS[_known(arch)]}
    code = Assembler()
    code.load(NUMBER)
    code.if_equal(number["clone"], "clone")
    code.if_equal(number["clone3"], "absent")
    # open_tree, move_mount, fsopen, fsconfig, fsmount and fspick have consecutive numbers.
    code.if_at_least(number["fspick"] + 1, "high")
    code.if_at_least(number["open_tree"], "refused")
    for name in ("mount", "umount2", "pivot_root", "setns", "unshare"):
        code.if_equal(number[name], "refused")
    for name in ("sethostname", "setdomainname"):
        code.if_equal(number[name], "refused")
    code.answer(ALLOW)
    code.label("high")
    code.if_equal(number["mount_setattr"], "refused")
    code.if_equal(number["open_tree_attr"], "refused")
    code.answer(ALLOW)
    code.label("clone")
    code.load(argument(0))
    code.if_any_bit(lists.CLONE_NEW_FLAGS, "refused")
    code.answer(ALLOW)
    code.label("refused")
    code.answer(_NOT_PERMITTED)
    code.label("absent")
    # clone3's flags lie behind a pointer; glibc and musl fall back to clone on ENOSYS.
    code.answer(_NOT_KNOWN)
    return code.assemble()


def _known(arch: str | None) -> str:
    arch = arch or platform.machine()
    if arch not in lists.NUMBERS:
        raise WallUnavailable(
            f"there is no system call list for {arch}",
            hint="Atoll's Linux launchers run on x86_64 and aarch64.",
        )
    return arch


def _argument_rules(arch: str) -> bytes:
    """Refusals that depend on arguments; what they let through falls into the allow-list behind.

    Written by hand, because libseccomp drops a refusal with a compare where the same call is
    allowed without one, and its "not equal" compares 64 bits, of which the kernel reads 32.
    """
    number = lists.NUMBERS[arch]
    code = Assembler()
    code.load(NUMBER)
    for name in ("ioctl", "socket", "socketpair", "personality"):
        code.if_equal(number[name], name)
    code.jump("list")
    code.label("ioctl")
    code.load(argument(1))
    for request in lists.TERMINAL_INJECTION:
        code.if_equal(request, "not permitted")
    code.jump("list")
    code.label("personality")
    code.load(argument(0))
    for value in lists.PERSONALITIES:
        code.if_equal(value, "list")
    code.label("not permitted")
    code.answer(_NOT_PERMITTED)
    code.label("socket")
    code.load(argument(0))
    code.if_equal(lists.AF_NETLINK, "netlink")
    for family in (lists.AF_INET, lists.AF_INET6):
        code.if_equal(family, "list")
    code.label("socketpair")
    code.load(argument(0))
    code.if_equal(lists.AF_UNIX, "list")
    code.answer(errno_action(errno.EAFNOSUPPORT))
    code.label("netlink")
    code.load(argument(2))
    code.if_equal(lists.NETLINK_ROUTE, "list")
    # libaudit (useradd, passwd) reads this errno as "no audit here", but EPERM as an error.
    code.answer(errno_action(errno.EPROTONOSUPPORT))
    code.label("list")
    return code.assemble()


def _allow_list(arch: str) -> bytes:
    newer = {**lists.NEWER, **(lists.NEWER_X86 if arch == "x86_64" else {})}
    with Filter(arch, default=_NOT_KNOWN, bad_architecture=_NOT_KNOWN) as program:
        for names, action in ((lists.ALLOWED, ALLOW), (lists.REFUSED, _NOT_PERMITTED)):
            for name in names:
                number = program.number(name)
                if number is None and program.native:
                    number = newer.get(name)
                # An unknown name of another machine's libseccomp stays ENOSYS: fail closed.
                if number is not None:
                    program.rule(action, number)
        return program.export()
