"""The command line. The door: `main`, which the `atoll` script calls."""

from __future__ import annotations

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> None:
    """Run one `atoll` command and exit with its code."""
    from atoll.cli.app import app

    app(args=arguments, prog_name="atoll")
