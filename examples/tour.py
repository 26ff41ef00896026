"""A tour of Atoll: real code on real data in real sandboxes. `make run` runs it.

It analyses 44 years of carbon dioxide measurements with pandas in one sandbox, brings back a
table and a picture, goes on in JavaScript and Bash beside it, runs into a limit, looks for a
neighbour and finds none, and prints how long each step took.
"""

from __future__ import annotations

import base64
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import anyio
from rich.columns import Columns
from rich.console import Console
from rich.panel import Panel
from rich.syntax import Syntax
from rich.table import Table

from atoll import AtollError, Engine, Limits, Sandbox
from atoll.engine.templates_progress import terminal_report
from atoll.model import Execution, LimitUnavailable

DATA = Path(__file__).parent / "data/mauna_loa_co2.csv"
PICTURE = Path(__file__).parents[1] / "build/tour/mauna_loa_co2.png"
console = Console(highlight=False, width=100)

LOAD = """\
import pandas as pd
weeks = pd.read_csv("co2.csv", parse_dates=["date"], date_format="%Y%m%d").set_index("date")["co2"]
months = weeks.interpolate().resample("MS").mean()
first, last = weeks.index[[0, -1]]
print(f"{len(weeks):,} weeks, {weeks.isna().sum()} of them empty, {first:%B %Y} to {last:%B %Y}")
"""

DECADES = """\
years = months.resample("YS").mean()
decades = pd.DataFrame({
    "mean ppm": years.groupby(years.index.year // 10 * 10).mean().round(1),
    "rise a year": years.diff().groupby(years.index.year // 10 * 10).mean().round(2),
})
decades.index.name = "decade"
decades.to_json("decades.json", orient="index")
decades
"""

PLOT = """\
import matplotlib.pyplot as plt
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), width_ratios=[2, 1])
months.plot(ax=left, lw=0.8, title="Carbon dioxide at Mauna Loa, parts per million")
months.rolling(12, center=True).mean().plot(ax=left, lw=2)
season = months - months.rolling(12, center=True).mean()
season.groupby(season.index.month).mean().plot.bar(ax=right, title="The season's share")
figure.tight_layout()
plt.show()
"""

JAVASCRIPT = """\
const decades = JSON.parse(require("fs").readFileSync("decades.json", "utf8"));
const rise = Object.entries(decades).map(([decade, row]) => [decade, row["rise a year"]]);
const [decade, most] = rise.reduce((a, b) => (b[1] > a[1] ? b : a));
console.log(`fastest rise: the ${decade}s, ${most} ppm a year (Node ${process.version})`);
"""

BASH = """\
highest=$(tail -n +2 co2.csv | sort -t, -k2 -n | tail -1)
echo "highest week: ${highest#*,} ppm on ${highest%,*}, found by $(id -un) on $(uname -s)"
"""

BOMB = 'hoard = []\nwhile True:\n    hoard.append(b"x" * 10_000_000)\n'

SERVE = """\
echo "nobody else reads this" > secret.txt
python3 -m http.server 8000 >/dev/null 2>&1 &
until (exec 3<>/dev/tcp/127.0.0.1/8000) 2>/dev/null; do sleep 0.02; done
"""

LOOK_AROUND = """\
open() { (exec 3<>/dev/tcp/127.0.0.1/8000) 2>/dev/null; }
echo "files in the home:  $(ls ~ | wc -w)"
echo "web server:         $(grep -las '[h]ttp.server' /proc/[0-9]*/cmdline | wc -l) running"
echo "port 8000:          $(open && echo open || echo closed)"
"""


class Tour:
    """The steps, and how long each took."""

    def __init__(self, engine: Engine, limits: Limits) -> None:
        self._engine = engine
        self._limits = limits
        self.times: list[tuple[str, float]] = []

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Note how long the block took."""
        start = time.perf_counter()
        yield
        self.times.append((what, time.perf_counter() - start))

    async def warm_up(self) -> None:
        """Import numpy, pandas and matplotlib: once, for all sandboxes to come."""
        with self.timed("start the zygotes (once)"):
            async with await self._engine.create("code-interpreter", limits=self._limits) as first:
                await first.run_code("0")

    async def analyse(self) -> None:
        """Python, JavaScript and Bash in one sandbox, on one set of files."""
        with self.timed("create a sandbox"):
            sandbox = await self._engine.create("code-interpreter", limits=self._limits)
        async with sandbox:
            with self.timed("upload the data"):
                await sandbox.files.write("co2.csv", DATA.read_bytes())
            await self._cell(sandbox, "load it (first Python cell)", LOAD)
            table = await self._cell(sandbox, "decades (a further cell)", DECADES)
            await sandbox.files.write("decades.txt", table.text or "")
            self._keep_picture(await self._cell(sandbox, "two plots", PLOT))
            await self._cell(sandbox, "JavaScript on Python's result", JAVASCRIPT, "javascript")
            await self._cell(sandbox, "Bash on the same file", BASH, "bash")
            with self.timed("download the table"):
                text = await sandbox.files.read("decades.txt")
            console.print(Panel.fit(text, title="the table, as read back from the sandbox"))

    async def hit_a_limit(self) -> None:
        """A memory bomb ends its own sandbox and says why."""
        if self._limits.memory is None:
            console.print("\n[bold]A limit[/]: left out; this account's kernel cannot hold memory.")
            return
        limits = replace(self._limits, memory="256M")
        async with await self._engine.create("code-interpreter", limits=limits) as sandbox:
            console.print("\n[bold]A limit[/]: this in a sandbox with 256 MB of memory")
            console.print(Syntax(BOMB, "python", background_color="default"))
            with self.timed("memory bomb, until it was over"):
                verdict = await _outcome(sandbox, BOMB)
            console.print(f"  -> {verdict}")

    async def look_for_a_neighbour(self) -> None:
        """Two sandboxes side by side; one looks around."""
        create = self._engine.create
        async with await create("base", limits=self._limits) as busy:
            await busy.commands.run(SERVE)
            start = time.perf_counter()
            async with await create("base", limits=self._limits) as curious:
                self.times.append(("create a neighbour", time.perf_counter() - start))
                with self.timed("a command in it"):
                    seen = await curious.commands.run(LOOK_AROUND)
            own = await busy.commands.run(LOOK_AROUND)
        console.print(
            "\n[bold]A neighbour[/]: one sandbox keeps a secret file and serves port 8000"
        )
        panels = [Panel(own.stdout.strip(), title="what it sees itself")]
        panels += [Panel(seen.stdout.strip(), title="what the sandbox beside it sees")]
        console.print(Columns(panels))

    async def _cell(
        self, sandbox: Sandbox, what: str, code: str, language: str = "python"
    ) -> Execution:
        console.print(f"\n[bold]{what}[/]")
        console.print(Syntax(code.rstrip(), language, background_color="default"))
        with self.timed(what):
            execution = await sandbox.run_code(code, language=language)
        if execution.error:
            raise SystemExit(f"the cell failed:\n{execution.error.traceback}")
        shown = execution.text or "".join(execution.logs.stdout)
        console.print(f"[green]{shown.rstrip()}[/]")
        return execution

    def _keep_picture(self, execution: Execution) -> None:
        png = next(result.png for result in execution.results if result.png)
        PICTURE.parent.mkdir(parents=True, exist_ok=True)
        PICTURE.write_bytes(base64.b64decode(png))
        place = PICTURE.relative_to(Path.cwd()) if PICTURE.is_relative_to(Path.cwd()) else PICTURE
        console.print(f"[green]the picture: {place} ({PICTURE.stat().st_size:,} bytes)[/]")

    def show_times(self) -> None:
        """What each step took."""
        table = Table(title="\nTimes", title_justify="left")
        table.add_column("step")
        table.add_column("milliseconds", justify="right")
        for what, seconds in self.times:
            table.add_row(what, f"{seconds * 1000:,.1f}")
        console.print(table)


async def _outcome(sandbox: Sandbox, code: str) -> str:
    """How the cell ended, as one line."""
    try:
        execution = await sandbox.run_code(code)
    except AtollError as error:
        reason = sandbox.killed_by.value if sandbox.killed_by else "?"
        return f"{type(error).__name__}, killed by its limit of {reason}"
    if execution.killed_by:
        alive = await sandbox.commands.run("echo and the sandbox goes on")
        return f"killed by its limit of {execution.killed_by.value}, {alive.stdout.strip()}"
    return f"{execution.error.name}: {execution.error.value}" if execution.error else "nothing"


async def usable_limits(engine: Engine) -> Limits:
    """The default limits, less those that cannot be held for this account, which are named."""
    limits = Limits()
    for unheld in ({}, {"memory": None, "cpu": None, "pids": None}, {"disk": None}):
        limits = replace(limits, **unheld)
        try:
            async with await engine.create("base", limits=limits):
                break
        except LimitUnavailable as error:
            console.print(f"[yellow]Not held here:[/] {error}")
    return limits


async def main() -> int:
    """Run the tour; 1 if this machine cannot."""
    try:
        async with Engine() as engine:
            if not all(info.built for info in engine.templates.list()):
                with terminal_report("template code-interpreter", console) as report:
                    await engine.templates.get("code-interpreter", report)
            tour = Tour(engine, await usable_limits(engine))
            await tour.warm_up()
            await tour.analyse()
            await tour.hit_a_limit()
            await tour.look_for_a_neighbour()
            tour.show_times()
    except AtollError as error:
        console.print(f"[red]The tour cannot go on:[/] {error}")
        console.print("`.venv/bin/atoll doctor` says what this machine lacks, and the fix.")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(anyio.run(main))
