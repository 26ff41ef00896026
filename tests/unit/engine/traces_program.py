"""A process that traces an engine. Its own: a tracer provider stays for the process's whole life.

Usage: ``python traces_program.py DIRECTORY``; fails with what is not as it has to be.
"""

from __future__ import annotations

import sys
from pathlib import Path

import anyio
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from atoll.engine import Engine, Monitoring
from atoll.model import Template
from atoll.testing.waiting import eventually


async def main(place: Path) -> None:
    """Trace a create, a command and a cell, and look at their spans."""
    spans = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    trace.set_tracer_provider(provider)
    template = Template("test", (), cwd=str(place), python=sys.executable)
    async with Engine(
        data_dir=place / "data", launcher="fake", monitoring=Monitoring(traces=True)
    ) as engine:
        sandbox = await engine.create(template)
        with trace.get_tracer("caller").start_as_current_span("caller"):
            await sandbox.commands.run(["true"])
            await sandbox.run_code("true", language="bash")
    await eventually(lambda: len(spans.get_finished_spans()) >= 4)
    found = {span.name: span for span in spans.get_finished_spans()}
    assert set(found) == {"atoll.create", "atoll.process", "atoll.cell", "caller"}
    parent = found["caller"].context
    for name in ("atoll.process", "atoll.cell"):
        attributes = found[name].attributes or {}
        assert attributes["atoll.sandbox"] == sandbox.id
        above = found[name].parent
        assert above is not None
        assert parent is not None
        assert above.span_id == parent.span_id


if __name__ == "__main__":
    anyio.run(main, Path(sys.argv[1]))
