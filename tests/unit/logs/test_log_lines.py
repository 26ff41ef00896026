"""What a line of the log holds, and what it never shows."""

from __future__ import annotations

import copy
import io
import json
import logging
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.engine.logs import bound, current
from atoll.engine.logs.ids import unbound
from atoll.engine.logs.json_lines import JsonLines
from atoll.model import Secret, is_secret_name, redacted


def line(message: str, *args: object, **fields: object) -> dict[str, Any]:
    return parsed(logging.makeLogRecord({"msg": message, "args": args, "fields": fields}))


def parsed(record: logging.LogRecord) -> dict[str, Any]:
    text = JsonLines().format(record)
    assert "\n" not in text
    assert text.isascii()
    found: dict[str, Any] = json.loads(text)
    return found


def test_a_line_has_time_level_message_and_the_ids_that_hold() -> None:
    record = logging.makeLogRecord(
        {"msg": "made %s", "args": ("it",), "name": "atoll.x", "levelname": "INFO", "created": 0.5}
    )
    with bound(request="r1", sandbox="s1"), bound(execution="e1", actor="ada"):
        found = parsed(record)
    assert found == {
        "timestamp": "1970-01-01T00:00:00.500000+00:00",
        "level": "INFO",
        "logger": "atoll.x",
        "message": "made it",
        "request": "r1",
        "actor": "ada",
        "sandbox": "s1",
        "execution": "e1",
    }


def test_ids_hold_inside_the_block_and_in_tasks_started_there_only() -> None:
    seen: list[str | None] = []

    async def note() -> None:
        await anyio.lowlevel.checkpoint()
        seen.append(current().request)

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            with bound(request="one"):
                tasks.start_soon(note)
                with unbound():
                    tasks.start_soon(note)
            with bound(request="two"):
                tasks.start_soon(note)
            tasks.start_soon(note)

    anyio.run(main)
    assert seen == ["one", None, "two", None]


@given(st.text(), st.dictionaries(st.text(), st.text() | st.binary() | st.floats()))
def test_whatever_is_logged_is_one_line_of_json(message: str, fields: dict[str, Any]) -> None:
    found = line("%s", message, **{f"_{name}": value for name, value in fields.items()})
    assert found["message"] == message


def test_a_field_cannot_pass_for_the_lines_own_level_or_time() -> None:
    found = line("true", level="ERROR", timestamp="never", detail=1)
    assert (found["message"], found["detail"]) == ("true", 1)
    assert found["timestamp"] != "never"
    assert found["level"] != "ERROR"


def test_an_exception_is_in_its_line_and_a_long_message_is_cut() -> None:
    @contextmanager
    def raising() -> Iterator[None]:
        raise ValueError("two\nlines")
        yield

    logger, stream = logging.Logger("x"), io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines())
    logger.addHandler(handler)
    try:
        with raising():
            pass
    except ValueError:
        logger.exception("x" * 100_000)
    found = json.loads(stream.getvalue())
    assert "ValueError: two\nlines" in found["exception"]
    assert found["message"].endswith("(100000 characters)")
    assert len(found["message"]) < 66_000


@dataclass
class _Holder:
    token: Secret


def test_a_secret_shows_itself_to_reveal_alone() -> None:
    secret = Secret("hunter2")
    shown = [
        str(secret), repr(secret), f"{secret}", f"{secret:>20}", str(line("%s %r", secret, secret)),
        repr(_Holder(secret)), str(asdict(_Holder(secret))), json.dumps(secret, default=str),
        str({"a": [secret]}), str(copy.deepcopy([secret])), str(redacted({"plain": secret})),
        str(line("got %s", secret, plain=secret, nested={"a": [secret]})),
    ]  # fmt: skip
    assert not [text for text in shown if "hunter2" in text]
    assert secret.reveal() == "hunter2"
    with pytest.raises(TypeError, match="pickled"):
        pickle.dumps(secret)
    with pytest.raises(TypeError):
        vars(secret)


def test_secrets_are_equal_by_what_they_hold() -> None:
    assert Secret("a") == Secret("a") != Secret("b")
    assert Secret("a") != "a"
    assert len({Secret("a"), Secret("a"), Secret("b")}) == 2
    assert not Secret("")


@pytest.mark.parametrize(
    "name",
    [
        "API_KEY", "apiKey", "X-API-Key", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "PASSWORD",
        "DB_PASS", "PGPASSWORD", "GITHUB_TOKEN", "Authorization", "authToken", "Cookie",
        "client_secret", "PRIVATE_KEY", "privateKey", "SENTRY_DSN", "JWT", "githubtoken", "Bearer",
    ],
)  # fmt: skip
def test_these_names_hold_secrets(name: str) -> None:
    assert is_secret_name(name)
    assert redacted({name: "value"}) == {name: "[redacted]"}


@pytest.mark.parametrize(
    "name", ["PATH", "HOME", "monkey", "keyboard", "author", "compass", "sign"]
)
def test_these_names_hold_none(name: str) -> None:
    assert not is_secret_name(name)


@pytest.mark.parametrize(
    "value",
    [
        "postgres://ada:hunter2@db/x",
        "-----BEGIN RSA PRIVATE KEY-----",
        "AKIAABCDEFGHIJKLMNOP",
        "sk-abcdefghijklmnopqrstuvwx",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.xxxx",
    ],
)
def test_a_value_that_looks_like_a_secret_is_hidden_whatever_its_name(value: str) -> None:
    assert redacted({"url": value, "ok": ["https://host/path"]}) == {
        "url": "[redacted]",
        "ok": ["https://host/path"],
    }
