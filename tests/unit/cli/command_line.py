"""How the tests start the `atoll` command."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

Atoll = Callable[..., subprocess.CompletedProcess[bytes]]
COMMAND = (sys.executable, "-c", "from atoll.cli import main; main()")
Base = tuple[str, ...]
