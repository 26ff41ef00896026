"""The AppArmor profile that lets Atoll, and nothing else, use user namespaces (Ubuntu 23.10 on)."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

PROFILE_FILE = "/etc/apparmor.d/atoll"


def attachment(executable: Path, prefix: Path) -> Path | None:
    """The program to name in the profile: an interpreter that only Atoll uses, else its command.

    Never a system-wide interpreter: that would free every program written in Python. None if there
    is neither.
    """
    if executable.is_relative_to(prefix):
        return executable
    script = prefix / "bin/atoll"
    return script if script.exists() else None


def profile(program: Path) -> str:
    """The profile: unconfined as before, plus user namespaces."""
    # Characters that AppArmor would read as a pattern (apparmor.d(5), globbing).
    path = re.sub(r'([\\"*?\[\]{}^])', r"\\\1", str(program))
    return (
        "abi <abi/4.0>,\n"
        "include <tunables/global>\n"
        f'profile atoll "{path}" flags=(unconfined) {{\n'
        "  userns,\n"
        "}\n"
    )


def install_command(program: Path) -> str:
    """The one command that installs it."""
    text = shlex.quote(
        profile(program).replace("%", "%%").replace("\\", "\\\\").replace("\n", "\\n")
    )
    return (
        f"printf {text} | sudo tee {PROFILE_FILE} >/dev/null"
        f" && sudo apparmor_parser -r {PROFILE_FILE}"
    )
