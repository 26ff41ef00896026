"""Which program is the context of a language.

Bash needs no interpreter of the template's: its runner is ours and runs in the forked guest itself.
"""

from __future__ import annotations

import os

from atoll.guest import fields
from atoll.guest.contexts import bash
from atoll.guest.refusal import Refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from atoll.guest.fields import Request

_INSIDE = "/.atoll/atoll/guest/contexts"
_CONTROL = 3

# Flags of the interpreter, our script, and the arguments it gets unless the request has others.
_PROGRAMS: dict[str, tuple[list[str], str, list[str]]] = {
    "python": (["-I"], "python_main.py", []),
    "javascript": ([], "node_runner.mjs", []),
    "typescript": ([], "node_runner.mjs", ["typescript"]),
    "r": (["-I"], "kernel_main.py", ["ir"]),
    "java": (["-I"], "kernel_main.py", ["java"]),
}


def program(request: Request) -> list[bytes] | Callable[[dict[bytes, bytes]], None]:
    """The command of a context, or what the forked guest does as one.

    Raises:
        Refused: unknown_language, also if the template has no interpreter for it.
    """
    language = fields.text(request, "language")
    if language == "bash":
        return _bash
    if language not in _PROGRAMS:
        raise Refused("unknown_language", f"there are no contexts of language {language!r:.80}")
    runtime = fields.optional_text(request, "runtime")
    if not runtime:
        raise Refused("unknown_language", f"this template has no interpreter for {language}")
    flags, script, arguments = _PROGRAMS[language]
    # Elsewhere only where there is no root of the sandbox's own.
    folder = _INSIDE if os.path.isdir(_INSIDE) else f"{os.path.dirname(__file__)}/contexts"
    return [
        fields.encoded(runtime, "runtime"),
        *fields.texts(request, "flags", flags),
        f"{folder}/{script}".encode(),
        *fields.texts(request, "arguments", arguments),
    ]


def _bash(env: dict[bytes, bytes]) -> None:
    os.environb.clear()
    os.environb.update(env)
    bash.serve(_CONTROL)
