"""Measures Atoll beside its peers on this machine. The door: `run_engine` and what it returns."""

from atoll.bench.engine import BenchOptions as BenchOptions
from atoll.bench.engine import run_engine as run_engine
from atoll.bench.report import Report as Report
from atoll.bench.report import markdown as markdown
from atoll.bench.report import save as save

__all__ = ["BenchOptions", "Report", "markdown", "run_engine", "save"]
