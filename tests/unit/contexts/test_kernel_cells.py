"""Cells in a Jupyter kernel: ipykernel stands in for those of R and Java."""

from __future__ import annotations

from pathlib import Path

import pytest
from contexts_kit import OpenContext, Running

from atoll.engine.contexts import ContextEnded
from atoll.model import KilledBy

pytestmark = pytest.mark.anyio


def kernel_command(guest_root: Path, environment: Path, kernel: str) -> list[str]:
    script = guest_root / "atoll/guest/contexts/kernel_main.py"
    return [str(environment / "bin/python"), "-I", str(script), kernel]


@pytest.fixture
async def context(
    open_context: OpenContext, guest_root: Path, scientific: Path, tmp_path: Path
) -> Running:
    command = kernel_command(guest_root, scientific, "python3")
    return await open_context(command, cwd=tmp_path, env={"TMPDIR": str(tmp_path)})


async def test_values_streams_and_displays(context: Running) -> None:
    code = (
        "import sys\nfrom IPython.display import HTML, display\nprint('out')\n"
        "print('err', file=sys.stderr)\ndisplay(HTML('<b>'))\nx = 5\nx"
    )
    execution = await context.run(code)
    assert execution.logs.stdout == ["out\n"]
    assert execution.logs.stderr == ["err\n"]
    shown, value = execution.results
    assert (shown.html, shown.is_main_result) == ("<b>", False)
    assert (value.text, value.is_main_result) == ("5", True)
    assert await context.value("x") == "5"


async def test_errors_and_interrupts(context: Running) -> None:
    error = (await context.run("kept = 1\n1 / 0")).error
    assert error is not None
    assert (error.name, error.value) == ("ZeroDivisionError", "division by zero")
    assert "\x1b" not in error.traceback
    slept = await context.run("import time\ntime.sleep(60)", timeout=0.5)
    assert slept.killed_by is KilledBy.WALL
    assert await context.value("kept") == "1"


async def test_the_kernels_end_is_the_contexts(context: Running, tmp_path: Path) -> None:
    with pytest.raises(ContextEnded):
        await context.run("import os\nos._exit(1)")
    context.process.wait(10)
    assert not list(tmp_path.glob("atoll-kernel-*"))


async def test_what_a_kernel_cannot_do(context: Running) -> None:
    error = (await context.run("1", env={"A": "b"})).error
    assert error is not None
    assert error.name == "NotSupported"


async def test_a_kernel_that_is_not_there(
    open_context: OpenContext, guest_root: Path, scientific: Path
) -> None:
    context = await open_context(kernel_command(guest_root, scientific, "ir"))
    error = (await context.run("1")).error
    assert error is not None
    assert error.name == "KernelUnavailable"
    assert "No such kernel" in error.value
