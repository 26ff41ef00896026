"""The command line that bwrap is given."""

from __future__ import annotations

from pathlib import Path

import pytest

from atoll.launch.bubblewrap_arguments import Shape, arguments, bound, check_mounts
from atoll.launch.linux.guest_rights import GUEST_CAPABILITIES
from atoll.model import InvalidPath, Layer, Mount, Template

TEMPLATE = Template(
    "t",
    (
        Layer("/", (Path("/secret/top"), Path("/secret/bottom"))),
        Layer("/usr", (Path("/secret/usr"),)),
    ),
)
GUEST = ("/.atoll/python/loader", "/.atoll/python/bin/python", "/.atoll/entry.py")


def shape(mounts: tuple[Mount, ...] = (), guest_lowers: tuple[int, ...] = ()) -> Shape:
    return Shape(TEMPLATE, "box", mounts, GUEST, guest_lowers, ("keys",))


def test_no_path_of_the_host_is_on_the_command_line() -> None:
    mounts = (Mount(Path("/secret/data"), "/data"),)
    assert not [word for word in arguments(shape(mounts)) if "secret" in word]


def test_every_namespace_is_new() -> None:
    words = arguments(shape())
    for kind in ("pid", "ipc", "uts", "cgroup"):
        assert f"--unshare-{kind}" in words
    assert words[words.index("--userns2") + 1].isdigit()
    assert "--assert-userns-disabled" in words
    for option in ("--as-pid-1", "--die-with-parent", "--new-session", "--clearenv"):
        assert option in words


def test_all_capabilities_go_before_the_listed_ones_are_added() -> None:
    words = arguments(shape())
    assert words[words.index("--cap-drop") + 1] == "ALL"
    added = [words[i + 1] for i, word in enumerate(words) if word == "--cap-add"]
    assert {"CAP_CHOWN", "CAP_SETPCAP", "CAP_SETFCAP"} < set(added)
    assert not {"CAP_SYS_ADMIN", "CAP_NET_ADMIN", "CAP_SYS_PTRACE", "CAP_MKNOD"} & set(added)
    assert words.index("--cap-drop") < words.index("--cap-add")


def test_lowers_are_given_from_the_bottom_up_and_layers_in_order() -> None:
    words = arguments(shape())
    first = words.index("--overlay-src")
    assert words[first : first + 8] == [
        *("--overlay-src", "/tmp/l1", "--overlay-src", "/tmp/l0"),
        *("--overlay", "/tmp/rw/0u", "/tmp/rw/0w", "/"),
    ]
    assert words[first + 8 : first + 14] == [
        *("--overlay-src", "/tmp/l2", "--overlay", "/tmp/rw/1u", "/tmp/rw/1w", "/usr"),
    ]


def test_the_guest_comes_from_a_read_only_overlay_of_ours_on_top() -> None:
    words = arguments(shape(guest_lowers=(0,)))
    at = words.index("--ro-overlay")
    assert words[at + 1] == "/.atoll"
    assert words[at - 4 : at] == [
        *("--overlay-src", "/tmp/l0/.atoll"),
        *("--overlay-src", "/tmp/runtime/guest"),
    ]
    assert "--ro-bind" not in words


def test_both_filters_are_added_and_the_guest_comes_last() -> None:
    words = arguments(shape())
    assert [words[i + 1] for i, w in enumerate(words) if w == "--add-seccomp-fd"] == ["5", "6"]
    assert words[words.index("--") + 1 :] == [*GUEST, f"{GUEST_CAPABILITIES:x}"]


def test_dev_is_read_only_after_its_mounts() -> None:
    words = arguments(shape())
    assert words.index("--remount-ro") > words.index("--dev") < words.index("/dev/shm")
    assert words[words.index("--remount-ro") + 1] == "/dev"


def test_mounts_are_bound_as_asked() -> None:
    mounts = (Mount(Path("/a"), "/in"), Mount(Path("/b"), "/out", read_only=False))
    words = arguments(shape(mounts))
    assert words[words.index("--ro-bind") : words.index("--ro-bind") + 3] == [
        *("--ro-bind", "/tmp/m0", "/in")
    ]
    at = words.index("/tmp/m1")
    assert words[at - 1 : at + 2] == ["--bind", "/tmp/m1", "/out"]
    assert bound(shape(mounts))["/in"] is True
    assert bound(shape(mounts))["/out"] is False


@pytest.mark.parametrize(
    "target",
    [
        *("relative", "/", "/a/../proc", "/a//b", "/a/", "/./a", "/proc", "/proc/1", "/dev/shm"),
        *("/.atoll", "/.atoll/entry.py", "/sys/fs/cgroup", "/a\0b", ""),
    ],
)
def test_a_mount_over_a_wall_is_refused(target: str) -> None:
    with pytest.raises(InvalidPath):
        check_mounts((Mount(Path("/a"), target),))


def test_a_plain_target_is_taken() -> None:
    check_mounts((Mount(Path("/a"), "/home/user/data"), Mount(Path("/a"), "/processed")))
