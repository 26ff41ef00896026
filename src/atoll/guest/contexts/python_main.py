"""Entry of a Python context in a fresh interpreter.

Usage: ``python -I python_main.py [--plain] MODULE...``: the modules are imported first.
The control socket is descriptor 3.
"""

from __future__ import annotations

import sys

CONTROL_FD = 3


def main() -> None:
    """Warm up with the modules named, then serve."""
    package = "/atoll/guest/contexts/"
    root = __file__.rpartition(package)[0]
    sys.path.append(root)
    from atoll.guest.contexts.python import PythonContext

    names = [name for name in sys.argv[1:] if name != "--plain"]
    plain = "--plain" in sys.argv[1:]
    sys.argv = [""]
    PythonContext(names, plain).serve(CONTROL_FD)


if __name__ == "__main__":
    main()
