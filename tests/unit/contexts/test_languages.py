"""Names of languages."""

from __future__ import annotations

import pytest

from atoll.engine.languages import language_named
from atoll.model import UnknownLanguage


@pytest.mark.parametrize(
    ("name", "language"),
    [
        ("python", "python"),
        ("Python", "python"),
        ("py", "python"),
        ("js", "javascript"),
        ("javascript", "javascript"),
        ("ts", "typescript"),
        ("typescript", "typescript"),
        ("sh", "bash"),
        ("bash", "bash"),
        ("R", "r"),
        ("java", "java"),
    ],
)
def test_names_and_short_names(name: str, language: str) -> None:
    assert language_named(name) == language


@pytest.mark.parametrize("name", ["", "cobol", "python\0", None, 3])
def test_unknown_names_are_told_the_known_ones(name: str) -> None:
    with pytest.raises(UnknownLanguage) as raised:
        language_named(name)
    assert "typescript" in str(raised.value)
