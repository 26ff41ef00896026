"""What tests of several rooms need."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest


@pytest.fixture
def wheelhouse(tmp_path: Path) -> Path:
    """A directory with one wheel, `tiny`, which has a script."""
    house = tmp_path / "wheels"
    house.mkdir()
    with zipfile.ZipFile(house / "tiny-1.0-py3-none-any.whl", "w") as wheel:
        info = "tiny-1.0.dist-info"
        wheel.writestr("tiny.py", "NAME = 'tiny'\n\ndef main():\n    print(NAME)\n")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/entry_points.txt", "[console_scripts]\ntiny = tiny:main\n")
        wheel.writestr(f"{info}/RECORD", "")
    return house
