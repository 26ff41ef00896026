"""What options mean."""

from __future__ import annotations

from pathlib import Path

import pytest

from atoll.cli.settings import environment_from, limits_from, mounts_from, seconds_from
from atoll.model import InvalidArgument, InvalidLimit, Limits, Mount


def test_limits_are_the_librarys_unless_said() -> None:
    assert limits_from({"memory": None, "pids": None}) == Limits()


def test_limits_take_sizes_numbers_and_none() -> None:
    said: dict[str, str | None] = {
        "memory": "1G",
        "cpu": "0.5",
        "pids": "32",
        "disk": "none",
        "wall": "None",
    }
    assert limits_from(said) == Limits(memory="1G", cpu=0.5, pids=32, disk=None, wall=None)


@pytest.mark.parametrize(
    ("name", "text"),
    [("memory", "much"), ("memory", "-1"), ("cpu", "x"), ("cpu", "0"), ("pids", "1.5")],
)
def test_a_limit_that_is_none_is_refused(name: str, text: str) -> None:
    with pytest.raises(InvalidLimit):
        limits_from({name: text})


def test_mounts(tmp_path: Path) -> None:
    odd = tmp_path / "a:b"
    odd.mkdir()
    found = mounts_from([f"{tmp_path}:/data", f"{tmp_path}:/ro:ro", f"{odd}:/odd:rw"])
    assert found == (
        Mount(tmp_path, "/data", read_only=False),
        Mount(tmp_path, "/ro", read_only=True),
        Mount(odd, "/odd", read_only=False),
    )


@pytest.mark.parametrize("text", ["", "x", ":/a", "/tmp:relative", "/no/such/place:/a", "/tmp:ro"])
def test_a_mount_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        mounts_from([text])
    assert "HOST:GUEST" in str(caught.value)


def test_environment() -> None:
    assert environment_from(["A=1", "B=", "C=x=y"]) == {"A": "1", "B": "", "C": "x=y"}
    for text in ("A", "=1"):
        with pytest.raises(InvalidArgument, match="NAME=VALUE"):
            environment_from([text])


def test_seconds() -> None:
    assert seconds_from("--timeout", None) is None
    assert seconds_from("--timeout", "none") is None
    assert seconds_from("--timeout", "1.5") == 1.5
    for text in ("0", "-1", "soon", "inf", "nan"):
        with pytest.raises(InvalidArgument, match="--timeout"):
            seconds_from("--timeout", text)
