"""Sandboxes from trees of other systems, and from an interpreter that lies below a home."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from trees import busybox_tree, debian_package, debian_tree

from atoll import Engine, Limits, Sandbox, Template
from atoll.model import Execution, KilledBy, Mount, UnknownLanguage

pytestmark = pytest.mark.timeout(300)


@asynccontextmanager
async def sandbox_of(
    template: str | Template, data: Path, limits: Limits, *mounts: Mount
) -> AsyncIterator[Sandbox]:
    """One sandbox with an engine of its own."""
    async with (
        Engine(data_dir=data) as engine,
        await engine.create(template, limits=limits, mounts=mounts) as sandbox,
    ):
        yield sandbox


def test_apt_installs_a_package_in_a_debian_tree(
    tmp_path: Path, cache: Path, limits: Limits
) -> None:
    template = Template.from_rootfs(debian_tree(cache))
    debs = Mount(debian_package(cache, "hello"), "/mnt/debs")

    async def main() -> None:
        async with sandbox_of(template, tmp_path, limits, debs) as sandbox:
            install = "apt-get install -y /mnt/debs/*.deb"
            done = await sandbox.commands.run(install, user="root", timeout=120)
            assert done.exit_code == 0, done.stdout + done.stderr
            assert (await sandbox.commands.run("hello")).stdout == "Hello, world!\n"
            removed = await sandbox.commands.run("apt-get remove -y hello", user="root")
            assert removed.exit_code == 0, removed.stderr

    anyio.run(main)


def test_a_debian_tree_has_its_own_python(tmp_path: Path, cache: Path, limits: Limits) -> None:
    template = Template.from_rootfs(debian_tree(cache), preload=("sqlite3",))

    async def main() -> None:
        async with sandbox_of(template, tmp_path, limits) as sandbox:
            result = await sandbox.run_code("import sys; 'sqlite3' in sys.modules, sys.prefix")
            assert result.text == "(True, '/usr')"
            owners = await sandbox.commands.run(
                "stat -c %U /etc/passwd /home/user /usr/bin/python3"
            )
            assert owners.stdout.split() == ["root", "user", "root"]

    anyio.run(main)


def test_a_directory_of_a_tree_can_be_renamed_and_replaced(
    tmp_path: Path, cache: Path, limits: Limits
) -> None:
    # rename(2) of a directory of a lower layer is EXDEV: mv, apt and git must cope.
    template = Template.from_rootfs(debian_tree(cache))

    async def main() -> None:
        async with sandbox_of(template, tmp_path, limits) as sandbox:
            script = "mv /etc/apt /etc/moved && ls /etc/moved && mkdir /etc/apt && ls -A /etc/apt"
            done = await sandbox.commands.run(script, user="root")
            assert (done.exit_code, done.stderr) == (0, "")
            assert "sources.list" in done.stdout

    anyio.run(main)


def test_the_guest_works_in_a_tree_of_another_layout_without_python(
    tmp_path: Path, limits: Limits
) -> None:
    template = Template.from_rootfs(busybox_tree(tmp_path / "tree"))

    async def main() -> None:
        async with sandbox_of(template, tmp_path / "data", limits) as sandbox:
            done = await sandbox.commands.run("id -un; pwd; busybox | head -1; echo hi > hello")
            assert done.stdout.splitlines()[:2] == ["user", "/home/user"], done.stderr
            assert "BusyBox" in done.stdout
            assert await sandbox.files.read("hello") == "hi\n"
            assert [entry.name for entry in await sandbox.files.list("/bin")]
            with pytest.raises(UnknownLanguage):
                await sandbox.run_code("1 + 1")

    anyio.run(main)


def test_pip_installs_from_a_mounted_directory_of_wheels(
    tmp_path: Path, limits: Limits, wheelhouse: Path
) -> None:
    async def main() -> None:
        wheels = Mount(wheelhouse, "/mnt/wheels")
        # The default data directory: the environment is built there once for all tests.
        async with (
            Engine() as engine,
            await engine.create(limits=limits, mounts=(wheels,)) as sandbox,
        ):
            install = "pip install --no-index --find-links /mnt/wheels tiny"
            done = await sandbox.commands.run(install, timeout=120)
            assert done.exit_code == 0, done.stderr
            assert (await sandbox.run_code("import tiny; tiny.NAME")).text == "'tiny'"
            assert (await sandbox.commands.run("tiny")).stdout == "tiny\n"

    anyio.run(main)


@pytest.mark.slow
def test_an_interpreter_below_a_home_is_laid_beside_the_environment(
    tmp_path: Path, limits: Limits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATOLL_PYTHON", "own")

    async def main() -> None:
        async with sandbox_of("code-interpreter", tmp_path, limits) as sandbox:
            result = await sandbox.run_code("import numpy, sys; sys.base_prefix, sys.prefix")
            assert result.text is not None
            assert "/opt/atoll/python'" in result.text
            refused = await sandbox.commands.run("touch /opt/atoll/base-python/x", user="user")
            assert refused.exit_code != 0

    anyio.run(main)


@pytest.mark.slow
def test_r_runs_where_a_tree_has_its_kernel(cache: Path, tmp_path: Path, limits: Limits) -> None:
    tree = debian_tree(cache, "r-base-core", "r-cran-irkernel", "python3-jupyter-client")

    async def main() -> None:
        async with sandbox_of(Template.from_rootfs(tree), tmp_path, limits) as sandbox:

            async def run(code: str, timeout: float = 60.0) -> Execution:
                return await sandbox.run_code(code, language="r", timeout=timeout)

            assert (await run("x <- c(1, 2, 3); mean(x)")).text == "[1] 2"
            error = (await run("cat('said\\n'); stop('bad')")).error
            assert error is not None
            assert "bad" in error.value
            assert (await run("Sys.sleep(60)", timeout=1.0)).killed_by is KilledBy.WALL
            assert (await run("x[2]")).text == "[1] 2"
            assert "image/png" in (await run("plot(x)")).results[0].formats()

    anyio.run(main)


def test_a_lock_of_a_dead_builder_is_no_obstacle(tmp_path: Path, limits: Limits) -> None:
    layers = tmp_path / "layers"
    layers.mkdir()
    (layers / ".unfinished-skeleton-0").mkdir()

    async def main() -> None:
        async with sandbox_of("base", tmp_path, replace(limits, disk=None)) as sandbox:
            assert (await sandbox.commands.run("echo up")).stdout == "up\n"

    anyio.run(main)
