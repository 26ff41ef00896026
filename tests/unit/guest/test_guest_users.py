"""Accounts from files that anybody may have written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from atoll.guest.refusal import Refused
from atoll.guest.users import Accounts


def accounts(place: Path, passwd: str | bytes = "", group: str = "") -> Accounts:
    data = passwd.encode() if isinstance(passwd, str) else passwd
    (place / "passwd").write_bytes(data)
    (place / "group").write_text(group)
    return Accounts(str(place / "passwd"), str(place / "group"))


def test_an_account_with_its_groups(tmp_path: Path) -> None:
    found = accounts(
        tmp_path,
        "root:x:0:0:root:/root:/bin/bash\nann:x:1001:1002:Ann,,,:/home/ann:/bin/zsh\n",
        "adm:x:4:root,ann\nann:x:1002:\nother:x:5:root\n",
    )
    ann = found.find("ann")
    assert (ann.uid, ann.gid, ann.groups) == (1001, 1002, [1002, 4])
    assert (ann.home, ann.shell) == ("/home/ann", "/bin/zsh")
    assert found.find("1001").name == "ann"
    assert (found.user_name(1001), found.user_name(7)) == ("ann", "7")
    assert (found.group_name(4), found.group_name(7)) == ("adm", "7")


def test_user_and_root_exist_without_files(tmp_path: Path) -> None:
    found = Accounts(str(tmp_path / "none"), str(tmp_path / "none"))
    user = found.find("user")
    expected = (1000, 1000) if os.geteuid() == 0 else (os.geteuid(), os.getegid())
    assert (user.uid, user.gid, user.home) == (*expected, "/home/user")
    root = found.find("root")
    assert (root.uid, root.gid, root.home) == (0, 0, "/root")


@pytest.mark.parametrize(
    "line",
    [
        "bad",
        "bad:x:1001",
        "bad:x:-1:0::/:/bin/sh",
        "bad:x:4294967295:0::/:/bin/sh",
        "bad:x:1001:4294967295::/:/bin/sh",
        "bad:x:99999999999999999999:0::/:/bin/sh",
        "bad:x:\u0661:0::/:/bin/sh",
        "bad:x: 1001:0::/:/bin/sh",
        "bad:x:1001:0::/\0:/bin/sh",
        "bad:x:0x10:0::/:/bin/sh",
    ],
)
def test_a_bad_line_is_no_account(tmp_path: Path, line: str) -> None:
    found = accounts(tmp_path, f"{line}\ngood:x:5:5::/:/bin/sh\n")
    with pytest.raises(Refused) as caught:
        found.find("bad")
    assert caught.value.code == "unknown_user"
    assert found.find("good").uid == 5


def test_odd_homes_and_shells(tmp_path: Path) -> None:
    found = accounts(tmp_path, "a:x:5:5::relative:relative\n")
    assert (found.find("a").home, found.find("a").shell) == ("/", "/bin/sh")


def test_the_first_line_of_a_name_counts(tmp_path: Path) -> None:
    found = accounts(tmp_path, "a:x:5:5::/:/bin/sh\na:x:0:0::/:/bin/sh\n")
    assert found.find("a").uid == 5


def test_binary_junk_and_a_huge_file(tmp_path: Path) -> None:
    found = accounts(tmp_path, b"a:x:5:5::/:/bin/sh\n" + os.urandom(3 << 20))
    assert found.find("a").uid == 5


def test_a_fifo_in_its_place(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "passwd")
    found = Accounts(str(tmp_path / "passwd"), str(tmp_path / "passwd"))
    assert found.find("root").uid == 0


def test_a_change_is_seen(tmp_path: Path) -> None:
    found = accounts(tmp_path, "a:x:5:5::/:/bin/sh\n")
    assert found.find("a").uid == 5
    accounts(tmp_path, "a:x:6:6::/home/somewhere:/bin/sh\n")
    assert found.find("a").uid == 6


def test_an_account_is_in_a_bounded_number_of_groups(tmp_path: Path) -> None:
    groups = "".join(f"g{i}:x:{i + 10}:a\n" for i in range(1000))
    found = accounts(tmp_path, "a:x:5:5::/:/bin/sh\n", groups)
    assert len(found.find("a").groups) == 64
