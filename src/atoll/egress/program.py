"""Starts the proxy in a bare interpreter: CONTROL PATH..., a descriptor and where packages are."""

from __future__ import annotations

import sys


def main() -> None:
    """Be the proxy that the command line describes."""
    control, *paths = sys.argv[1:]
    sys.path.extend(paths)
    from atoll.egress.process import run

    run(int(control))


if __name__ == "__main__":
    main()
