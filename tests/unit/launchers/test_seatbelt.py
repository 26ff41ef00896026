"""The macOS launcher, as far as it can be tested elsewhere: profile text, refusals, entry."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.launch import seatbelt
from atoll.launch.seatbelt_profile import Places, profile, quoted
from atoll.model import (
    InvalidPath,
    LauncherUnavailable,
    Layer,
    Limits,
    LimitUnavailable,
    Mount,
    SandboxSpec,
    Template,
)

Tree = list["Tree | str"]
FREE = Limits(memory=None, cpu=None, pids=None, disk=None)
ESCAPES = {"n": "\n", "r": "\r", "t": "\t"}


def parse(text: str) -> Tree:
    """The profile as nested lists; a string keeps its opening quote, a comment ends a line."""
    stack: list[Tree] = [[]]
    at = 0
    while at < len(text):
        mark = text[at]
        if mark == "(":
            stack.append([])
        elif mark == ")":
            done = stack.pop()
            stack[-1].append(done)
        elif mark == ";":
            at = text.index("\n", at)
        elif mark == '"':
            word = '"'
            at += 1
            while text[at] != '"':
                if text[at] == "\\":
                    at += 1
                    word += ESCAPES.get(text[at], text[at])
                else:
                    word += text[at]
                at += 1
            stack[-1].append(word)
        elif not mark.isspace():
            start = at
            while text[at] not in '() \n"':
                at += 1
            stack[-1].append(text[start:at])
            continue
        at += 1
    assert len(stack) == 1, "unbalanced"
    return stack[0]


def rules(text: str, action: str) -> Tree:
    found: Tree = []
    for rule in parse(text):
        if isinstance(rule, list) and len(rule) > 2 and action in rule[1:]:
            found += [part for part in rule if isinstance(part, list)]
    return found


def replaced(tree: Tree, old: str, new: str) -> Tree:
    return [
        replaced(part, old, new) if isinstance(part, list) else new if part == old else part
        for part in tree
    ]


def test_everything_is_denied_first_and_the_network_last() -> None:
    tree = parse(profile(Places("/own", ("/py",))))
    assert tree[:2] == [["version", "1"], ["deny", "default"]]
    assert tree[-1] == ["deny", "network*"]
    assert not [r for r in tree if isinstance(r, list) and r[0] == "allow" and "network*" in r]


def test_only_its_own_directory_and_writable_mounts_are_written() -> None:
    text = profile(Places("/own", ("/py",), (("/in", True), ("/out", False))))
    assert rules(text, "file-write*") == [["subpath", '"/own'], ["subpath", '"/out']]
    assert ["subpath", '"/in'] in rules(text, "file-read*")
    assert ["deny", "file-write-setugid"] in parse(text)


def test_nobody_else_is_signalled_and_no_terminal_is_opened_by_name() -> None:
    text = profile(Places("/own", ()))
    assert rules(text, "signal") == [["target", "same-sandbox"]]
    assert "ttys" not in str(rules(text, "file-read*")) + str(rules(text, "file-write*"))


def test_homes_are_not_readable() -> None:
    text = profile(Places("/Users/me/atoll/s1", ("/opt/python",)))
    readable = {str(part[1]) for part in rules(text, "file-read*") if isinstance(part, list)}
    assert not readable & {'"/Users', '"/Users/me', '"/private', '"/private/var', '"/Library'}


@pytest.mark.parametrize(
    "name",
    [
        'a"b',
        'x")(allow default)("',
        "back\\slash",
        'end\\"',
        "new\nline",
        "(paren)",
        "; comment",
        "#|x|#",
        "tab\tcr\r",
        "ü",
    ],
)
def test_a_path_cannot_change_the_profiles_meaning(name: str) -> None:
    plain = parse(profile(Places("/data/PLAIN", ())))
    odd = parse(profile(Places(f"/data/{name}", ())))
    assert odd == replaced(plain, '"/data/PLAIN', f'"/data/{name}')


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_a_quoted_text_reads_back_as_itself(text: str) -> None:
    assert parse(f"({quoted(text)})") == [['"' + text]]


@pytest.mark.parametrize("path", ["relative", "", "/", "/a/../b", "/a//b", "/a/.", "/a\0b"])
def test_paths_that_are_not_plain_are_refused(path: str) -> None:
    with pytest.raises(InvalidPath):
        profile(Places(path, ()))


@pytest.mark.skipif(sys.platform == "darwin", reason="it works there")
def test_elsewhere_it_says_where_it_works(tmp_path: Path) -> None:
    with pytest.raises(LauncherUnavailable, match="works on macOS, not on linux") as caught:
        seatbelt.SeatbeltLauncher(tmp_path)
    assert "bubblewrap" in str(caught.value)


@pytest.mark.parametrize("name", seatbelt.NOT_HELD)
def test_limits_that_nothing_holds_are_refused(name: str) -> None:
    limits = {"memory": None, "cpu": None, "pids": None, "disk": None, name: 1}
    with pytest.raises(LimitUnavailable, match=f"limit {name} .*pass {name}=None|{name}"):
        seatbelt.refuse_limits(Limits(**limits))
    seatbelt.refuse_limits(FREE)


def test_places_are_real_paths(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.mkdir()
    (tmp_path / "link").symlink_to(real)
    template = Template("t", (Layer("/", (tmp_path / "link",)),))
    mounts = (Mount(tmp_path / "link", "/in"),)
    found = seatbelt.places(SandboxSpec("s", template, mounts=mounts), tmp_path / "link")
    assert found.own == str(real)
    assert str(real) in found.readable and str(tmp_path / "link") not in found.readable
    assert found.mounted == ((str(real), True),)


def test_the_profile_is_one_argument() -> None:
    words = seatbelt.command("(version 1)", 3, 4, 5)
    assert words[:3] == ["/usr/bin/sandbox-exec", "-p", "(version 1)"]
    assert words[-3:] == ["3", "4", "5"]


def started(fds: tuple[int, ...]) -> subprocess.Popen[bytes]:
    words = seatbelt.command("", *fds)[3:]
    return subprocess.Popen(words, pass_fds=fds, stdin=subprocess.DEVNULL)


def test_the_entry_ends_the_guest_with_the_engine_and_tells_the_end_of_the_guest() -> None:
    mine, theirs = seatbelt.channel_pair()
    lifeline, hold = os.pipe()
    word, write = os.pipe()
    with mine, started((theirs.fileno(), lifeline, write)) as process:
        theirs.close()
        os.close(write)
        os.close(lifeline)
        assert select.select([mine], [], [], 20)[0]
        assert mine.recv(1024) == b'{"event":"ready","protocol":1}'
        os.close(hold)
        assert select.select([word], [], [], 20)[0]
        assert os.read(word, 1) == b""
        assert process.wait(5) == 0
    os.close(word)


def test_the_channel_takes_its_largest_packet() -> None:
    mine, theirs = seatbelt.channel_pair()
    with mine, theirs:
        mine.send(b"x" * 65536)
        theirs.send(b"y" * 65536)
        assert len(theirs.recv(1 << 17)) == 65536
        assert mine.recv(1 << 17, socket.MSG_PEEK) == b"y" * 65536
