"""`atoll clean`: remove what Atoll keeps on this machine."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import anyio.to_thread
import typer

from atoll.cli import terminal
from atoll.cli.settings import AsJson, settings_of
from atoll.model import OwnerError

if TYPE_CHECKING:
    from collections.abc import Sequence

_KEPT = ("bubblewrap", "layers", "templates", "owners", "metrics")
"""What an engine makes in its data directory. Nothing else in it is touched."""


def clean(
    context: typer.Context,
    dead_only: Annotated[
        bool,
        typer.Option("--dead", help="Only what processes that ended badly have left behind."),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove what Atoll keeps: built templates, layers, and leftovers of ended owners.

    What a running process holds is never touched: while there is one, only leftovers are removed.
    """

    async def work() -> int:
        from atoll.engine import default_data_dir

        data_dir = settings_of(context).data_dir or default_data_dir()
        if not (dead_only or yes or as_json) and sys.stdin.isatty():
            typer.confirm(f"Remove everything that Atoll keeps in {data_dir}?", abort=True)
        done = await anyio.to_thread.run_sync(lambda: remove_kept(data_dir, dead_only=dead_only))
        if as_json:
            terminal.print_json(done)
        else:
            terminal.note(_sentence(data_dir, done))
        return 0

    raise typer.Exit(terminal.finish(work, as_json=as_json))


def _sentence(data_dir: Path, done: dict[str, list[str]]) -> str:
    parts = [f"removed {', '.join(done['removed'])}"] if done["removed"] else []
    if done["reaped"]:
        parts.append(f"removed what {len(done['reaped'])} ended owners had left")
    return f"{data_dir}: {'; '.join(parts) or 'nothing to remove'}"


def remove_kept(data_dir: Path, *, dead_only: bool) -> dict[str, list[str]]:
    """Reap dead owners and, if no other lives, remove all that engines keep in `data_dir`.

    Raises:
        OwnerError: an owner is alive, or something cannot be removed.
    """
    from atoll.engine.owner import reap_dead

    if not data_dir.is_dir():
        return {"reaped": [], "removed": []}
    reaped = reap_dead(data_dir)
    if dead_only:
        return {"reaped": reaped, "removed": []}
    owners = data_dir / "owners"
    alive = sorted(path.name for path in owners.iterdir()) if owners.is_dir() else []
    if alive:
        raise OwnerError(
            f"{len(alive)} owners still hold sandboxes in {data_dir}: {', '.join(alive)}",
            hint="stop those programs first; `atoll ps` shows their sandboxes",
        )
    kept = [data_dir / name for name in _KEPT if (data_dir / name).is_dir()]
    _remove(kept)
    if not any(data_dir.iterdir()):
        data_dir.rmdir()
    return {"reaped": reaped, "removed": [path.name for path in kept]}


def _remove(trees: Sequence[Path]) -> None:
    from atoll.cli.clean_subids import remove_as_subids
    from atoll.engine.trees import remove_tree

    try:
        for tree in trees:
            remove_tree(tree)
    except PermissionError:
        # Rootless, the sandboxes' users own files under this account's sub-ids.
        remove_as_subids(trees)
    except OSError as error:
        raise OwnerError(f"{error.filename or trees} cannot be removed: {error}") from None
