"""An owner that makes sandboxes until it is killed. Run as a program: data directory, launcher."""

from __future__ import annotations

import sys
from pathlib import Path

import anyio

from atoll.engine import Engine
from atoll.model import Limits, Template

LIMITS = Limits(memory=None, cpu=None)
"""Those that every account can have held."""


async def main(data_dir: Path, launcher: str) -> None:
    """Say `made` on standard output for each sandbox; never end one."""
    template: Template | str = "base"
    if launcher == "fake":
        template = Template("test", (), cwd="/")
    async with Engine(data_dir=data_dir, launcher=launcher, pool=2) as engine:
        await engine.create(template, limits=LIMITS)

        async def make() -> None:
            for _ in range(25):
                sandbox = await engine.create(template, limits=LIMITS)
                await sandbox.commands.start(["sleep", "20"])
                print("made", flush=True)

        async with anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(make)
        await anyio.sleep_forever()


if __name__ == "__main__":
    anyio.run(main, Path(sys.argv[1]), sys.argv[2])
