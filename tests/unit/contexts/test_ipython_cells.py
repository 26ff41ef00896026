"""What IPython adds to Python cells, and figures and tables."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from contexts_kit import OpenContext, Running

pytestmark = pytest.mark.anyio

PNG = b"\x89PNG\r\n"


@pytest.fixture
async def context(open_context: OpenContext, ipython: list[str], tmp_path: Path) -> Running:
    home = {"HOME": str(tmp_path), "IPYTHONDIR": str(tmp_path / "ipython")}
    return await open_context(ipython, cwd=tmp_path, env=home)


async def test_shell_lines(context: Running) -> None:
    await context.run("name = 'world'")
    assert await context.said("!echo hello {name}") == "hello world\n"
    assert await context.value("lines = !printf 'a\\nb'\nlist(lines)") == "['a', 'b']"
    assert await context.said("!false\nprint(_exit_code)") == "1\n"
    assert await context.said("print('first')\n!echo second") == "first\nsecond\n"


async def test_pip(context: Running) -> None:
    assert (await context.said("%pip --version")).startswith("pip ")


@pytest.mark.parametrize("code", ["%cd /usr", "cd /usr"])
async def test_line_magics_with_and_without_percent(context: Running, code: str) -> None:
    assert (await context.run(code)).error is None
    assert await context.value("import os\nos.getcwd()") == "'/usr'"


async def test_cell_magics(context: Running) -> None:
    assert await context.said("%%bash\necho $((1 + 1))") == "2\n"
    await context.run("%%capture captured\nprint('inside')\n!echo shell")
    assert await context.value("captured.stdout") == "'inside\\nshell\\n'"
    timed = await context.run("%%time\nx = 1\nx + 1")
    assert "Wall time" in "".join(timed.logs.stdout)
    assert timed.text == "2"
    assert "per loop" in await context.said("%timeit -n1 -r1 1 + 1")


async def test_an_error_in_a_magics_code(context: Running) -> None:
    error = (await context.run("%%time\n1 / 0")).error
    assert error is not None
    assert error.name == "ZeroDivisionError"


async def test_inputs_and_outputs_are_kept(context: Running) -> None:
    await context.run("40 + 2")
    assert await context.value("Out[1], _1, In[1]") == "(42, 42, '40 + 2')"


async def test_help(context: Running) -> None:
    await context.run("def f():\n    'What f is for.'")
    assert "What f is for." in await context.said("?f")
    assert "Docstring" in await context.said("print?")


async def test_extensions_and_their_hooks(context: Running) -> None:
    await context.run("%load_ext autoreload\n%autoreload 2")
    code = "get_ipython().events.register('post_run_cell', lambda result: print('hook'))"
    await context.run(code)
    assert await context.said("1") == "hook\n"


async def test_a_registered_formatter_is_used(context: Running) -> None:
    code = (
        "get_ipython().display_formatter.formatters['text/html']"
        ".for_type(int, lambda n: f'<i>{n}</i>')"
    )
    await context.run(code)
    (result,) = (await context.run("5")).results
    assert result.data == {"text/plain": "5", "text/html": "<i>5</i>"}


async def test_objects_that_display_themselves(context: Running) -> None:
    code = (
        "from IPython.display import HTML, Markdown, display\ndisplay(HTML('<b>'))\nMarkdown('#')"
    )
    first, second = (await context.run(code)).results
    assert (first.html, first.is_main_result) == ("<b>", False)
    assert (second.markdown, second.is_main_result) == ("#", True)


async def test_nothing_is_written_to_the_home(context: Running, tmp_path: Path) -> None:
    await context.run("1\n%time 2")
    assert list(tmp_path.iterdir()) == []


async def test_tables_as_html_and_text(context: Running) -> None:
    code = "import pandas as pd\npd.DataFrame({'a': [1, 2]})"
    (result,) = (await context.run(code)).results
    assert result.html is not None
    assert "<table" in result.html
    assert result.text == "   a\n0  1\n1  2"


@pytest.mark.parametrize("ending", ["", "plt.show()", "plt.gcf().show()\nplt.close()"])
async def test_figures_as_png_and_svg(context: Running, ending: str) -> None:
    code = f"import matplotlib.pyplot as plt\nplt.plot([1, 2]);\n{ending}"
    (result,) = [r for r in (await context.run(code)).results if not r.is_main_result]
    assert result.png is not None
    assert base64.b64decode(result.png).startswith(PNG)
    assert result.svg is not None
    assert "<svg" in result.svg
    assert (await context.run("plt.get_fignums()")).text == "[]"


async def test_figures_of_a_failed_cell_and_of_two_axes(context: Running) -> None:
    code = "import matplotlib.pyplot as plt\nplt.subplots(1, 2)\nplt.figure()\nplt.plot([1])\n1 / 0"
    execution = await context.run(code)
    assert len([r for r in execution.results if r.png]) == 2
    assert execution.error is not None


async def test_a_figure_of_very_many_points_is_png_alone(context: Running) -> None:
    code = (
        "import numpy as np, matplotlib.pyplot as plt\n"
        "points = np.random.default_rng(1).normal(size=(2, 200_000))\nplt.scatter(*points);"
    )
    (result,) = (await context.run(code)).results
    assert result.png is not None
    assert result.svg is None


async def test_matplotlib_magics_do_no_harm(context: Running) -> None:
    code = (
        "%matplotlib inline\n%config InlineBackend.figure_format = 'retina'\n"
        "import matplotlib.pyplot as plt\nplt.plot([1]);"
    )
    execution = await context.run(code)
    assert execution.error is None
    assert [r.png is not None for r in execution.results] == [True]


async def test_programs_that_a_cell_starts_have_a_backend_of_their_own(context: Running) -> None:
    code = (
        "import subprocess, sys, matplotlib.pyplot\n"
        "program = 'import matplotlib.pyplot as p; p.plot([1]); p.savefig(\"a.png\"); print(1)'\n"
        "subprocess.run([sys.executable, '-c', program]);"
    )
    execution = await context.run(code)
    assert "".join(execution.logs.stdout) == "1\n"


async def test_figures_on_the_plain_interpreter(
    open_context: OpenContext, ipython: list[str]
) -> None:
    context = await open_context([*ipython, "--plain"])
    code = (
        "import matplotlib.pyplot as plt\nfigure = plt.figure()\nplt.plot([1])\nplt.show()\nfigure"
    )
    shown, value = (await context.run(code)).results
    assert shown.png is not None
    assert value.is_main_result
    assert value.svg is not None
