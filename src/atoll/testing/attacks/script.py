"""Turns a probe into one self-contained program that a bare Python can run from its stdin."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import resources
from typing import Any

from atoll.testing.attacks.probes.kit import Facts, Outcome

ProbeFunction = Callable[[Facts], Outcome]

_PACKAGE = "atoll.testing.attacks.probes"

# The probes import the kit by its full name; a name that is in sys.modules needs no parent package.
_PROGRAM = """\
import json, sys, types
modules = json.loads({modules!r})
for name, source in modules:
    module = types.ModuleType(name)
    sys.modules[name] = module
    exec(compile(source, name, "exec"), module.__dict__)
kit = sys.modules["{package}.kit"]
probe = getattr(sys.modules[{module!r}], {function!r})
kit.main(probe, json.loads({facts!r}), {leave})
"""


def compose(probe: ProbeFunction, facts: Facts, *, leave: bool = True) -> str:
    """The program that runs `probe` with `facts` and prints its outcome as the last line.

    With `leave` the interpreter exits right after; without, it goes on (a cell of a context).
    """
    module = probe.__module__
    names = [f"{_PACKAGE}.numbers", f"{_PACKAGE}.kit"]
    names += [name for name in (module,) if name not in names]
    sources = [(name, _source(name)) for name in names]
    return _PROGRAM.format(
        modules=json.dumps(sources),
        package=_PACKAGE,
        module=module,
        function=probe.__name__,
        facts=json.dumps(facts),
        leave=leave,
    )


# A module for a template to preload: attempts at import, outcomes for whoever is forked later.
_MODULE = """\
import json, sys, types
for name, source in json.loads({modules!r}):
    module = types.ModuleType(name)
    sys.modules[name] = module
    exec(compile(source, name, "exec"), module.__dict__)
kit = sys.modules["{package}.kit"]
OUTCOMES = {{}}
for name, module, function, facts in json.loads({attempts!r}):
    probe = getattr(sys.modules[module], function)
    run = lambda: probe(facts)
    try:
        OUTCOMES[name] = kit.in_child(run, 60.0) if {fork} else run()
    except Exception as error:
        OUTCOMES[name] = (False, "the probe failed: " + repr(error))
"""


def compose_module(
    probes: dict[str, tuple[ProbeFunction, Facts]], facts: Facts, *, fork: bool = True
) -> str:
    """A module that makes the attempts when it is imported, each in a child unless not `fork`."""
    modules = {probe.__module__ for probe, _ in probes.values()}
    names = [f"{_PACKAGE}.numbers", f"{_PACKAGE}.kit", *sorted(modules)]
    attempts = [
        (name, probe.__module__, probe.__name__, {**facts, **extra})
        for name, (probe, extra) in probes.items()
    ]
    return _MODULE.format(
        modules=json.dumps([(name, _source(name)) for name in names]),
        package=_PACKAGE,
        attempts=json.dumps(attempts),
        fork=fork,
    )


def _source(module: str) -> str:
    package, _, name = module.rpartition(".")
    return resources.files(package).joinpath(f"{name}.py").read_text()


class ProbeFailed(Exception):
    """A probe did not report: it crashed, was killed, or printed something else."""


def parse(output: str) -> Outcome:
    """The outcome in a probe's output: its last line. Raises ProbeFailed."""
    lines = output.strip().splitlines()
    try:
        report: Any = json.loads(lines[-1])
        blocked, detail = report["blocked"], str(report["detail"])
    except (IndexError, ValueError, TypeError, KeyError) as error:
        raise ProbeFailed(f"no report in {output[-500:]!r}") from error
    if blocked is None:
        raise ProbeFailed(detail)
    return Outcome(bool(blocked), detail)
