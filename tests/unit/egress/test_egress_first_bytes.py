"""The parser of first bytes: one reading or none, for every cut and whatever is sent."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from egress_kit import client_hello
from hypothesis import example, given
from hypothesis import strategies as st

from atoll.egress.client_hello import MAX_HELLO, Malformed, read_client_hello
from atoll.egress.first_bytes import MAX_FIRST_BYTES, read_first_bytes
from atoll.egress.http_head import MAX_HEAD, read_request_head
from atoll.model.hostnames import parse_hostname

HELLO = client_hello("a.example")
CORPUS = [
    tuple(line.split("\t", 1))
    for line in (Path(__file__).parent / "corpus/first_bytes.txt").read_text().splitlines()
    if line and not line.startswith("#")
]
SEEDS = [ast.literal_eval(literal) for _, literal in CORPUS] + [HELLO, client_hello(None)]


def verdict(data: bytes) -> str:
    try:
        said = read_first_bytes(data)
    except Malformed:
        return "refused"
    return "more" if said is None else f"{said.kind} {said.host}"


def record(message: bytes, version: bytes = b"\x03\x01") -> bytes:
    return b"\x16" + version + len(message).to_bytes(2, "big") + message


@pytest.mark.parametrize(("expected", "literal"), CORPUS)
def test_the_corpus_is_read_as_it_says(expected: str, literal: str) -> None:
    assert verdict(ast.literal_eval(literal)) == expected


def test_a_client_hello_says_its_name() -> None:
    assert verdict(HELLO) == "tls a.example"
    assert verdict(client_hello("A.Example")) == "tls a.example"
    assert verdict(client_hello(None)) == "tls None"


def test_every_part_of_a_client_hello_waits_for_the_rest() -> None:
    assert {verdict(HELLO[:cut]) for cut in range(1, len(HELLO))} == {"more"}


@given(st.integers(1, 60))
def test_a_client_hello_may_come_in_many_records(size: int) -> None:
    message = HELLO[5:]
    parts = [message[at : at + size] for at in range(0, len(message), size)]

    assert verdict(b"".join(record(part) for part in parts)) == "tls a.example"


@pytest.mark.parametrize(
    "name", [b"a\x00.example", b"127.0.0.1", b"0x7f.1", b"b\xc3\xbc.example", b"a_.\x7f", b"a..b"]
)
def test_a_name_that_two_parsers_could_read_differently_is_refused(name: bytes) -> None:
    template = client_hello("x" * len(name))

    assert verdict(template.replace(b"x" * len(name), name)) == "refused"


def test_two_names_or_two_name_extensions_are_refused() -> None:
    def hello(extensions: bytes) -> bytes:
        body = b"\x03\x03" + bytes(32) + b"\0" + b"\0\2\x13\1" + b"\1\0"
        body += len(extensions).to_bytes(2, "big") + extensions
        return record(b"\1" + len(body).to_bytes(3, "big") + body)

    def extension(kind: int, content: bytes) -> bytes:
        return kind.to_bytes(2, "big") + len(content).to_bytes(2, "big") + content

    def names(*entries: bytes) -> bytes:
        content = b"".join(b"\0" + len(e).to_bytes(2, "big") + e for e in entries)
        return extension(0, len(content).to_bytes(2, "big") + content)

    assert verdict(hello(names(b"a.example"))) == "tls a.example"
    assert verdict(hello(names(b"a.example", b"evil.test"))) == "refused"
    assert verdict(hello(names(b"a.example") + names(b"evil.test"))) == "refused"
    assert verdict(hello(names(b"a.example") + b"\0")) == "refused"
    said = read_first_bytes(hello(names(b"a.example") + extension(0xFE0D, b"x")))
    assert said is not None and said.hidden


def test_what_has_no_end_is_refused_when_it_is_too_long() -> None:
    assert verdict(b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * (MAX_HEAD // 4)) == "refused"
    assert verdict(b"A" * (MAX_FIRST_BYTES + 1)) == "refused"
    long = b"\1" + MAX_HELLO.to_bytes(3, "big") + bytes(MAX_HELLO - 8)
    many = b"".join(record(long[at : at + 1]) for at in range(MAX_HELLO // 5))
    assert verdict(many) == "refused"


@st.composite
def mutations(draw: st.DrawFn) -> bytes:
    """A seed with bytes changed, cut out, doubled, or joined with another seed's."""
    data = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        match draw(st.sampled_from(["change", "cut", "insert", "join"])):
            case "change" if data:
                data[at] = draw(st.integers(0, 255))
            case "cut":
                del data[at : at + draw(st.integers(1, 8))]
            case "insert":
                data[at:at] = draw(st.sampled_from([b"\r\n", b"\0", b" ", b":", b"\t", b"HTTP/"]))
            case _:
                data[at:] = draw(st.sampled_from(SEEDS))[at:]
    return bytes(data)


@given(st.one_of(st.binary(max_size=2000), mutations()))
@example(b"GET / HTTP/1.1\r\nHost: a.example" + b" " * 20_000 + b"\0\r\n\r\n")
def test_whatever_comes_is_read_or_refused(data: bytes) -> None:
    try:
        said = read_first_bytes(data)
    except Malformed:
        return
    if said is not None and isinstance(said.host, str):
        assert parse_hostname(said.host) == said.host
        assert said.host.encode() in data.lower().replace(b"\0", b"") or data[:1] == b"\x16"


@given(mutations())
def test_more_bytes_never_change_what_was_said(data: bytes) -> None:
    """A verdict on the first bytes of a connection has to hold for all of it."""
    known = ""
    for cut in range(1, len(data) + 1):
        now = verdict(data[:cut])
        if known in ("", "more"):
            known = now
        elif known.startswith("http") or known.startswith("connect") or known == "refused":
            assert now == known
        else:
            break


@given(st.binary(max_size=600))
def test_the_client_hello_parser_raises_nothing_else(data: bytes) -> None:
    try:
        read_client_hello(b"\x16\x03\x01" + data)
    except Malformed:
        return


@given(st.binary(max_size=600))
def test_the_request_parser_raises_nothing_else(data: bytes) -> None:
    try:
        head = read_request_head(b"GET / HTTP/1.1\r\nHost: a.example\r\n" + data + b"\r\n\r\n")
    except Malformed:
        return
    assert head is not None and head.authority is not None
    assert head.authority.host == "a.example"
