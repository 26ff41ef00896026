"""The templates of a data directory: `base`, `code-interpreter`, and any that are added."""

from __future__ import annotations

import fcntl
import os
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import anyio
import anyio.to_thread

from atoll.engine.rootfs import completed
from atoll.engine.skeleton import SYSTEM_PYTHON, atoll_layer, machine_layers, machine_skeleton
from atoll.engine.templates_interpreter import Interpreter, choose_interpreter, system_interpreter
from atoll.engine.templates_progress import BuildProgress, Report, automatic_report
from atoll.engine.templates_python import ENVIRONMENT, NODE, EnvironmentBuild, environment_key
from atoll.engine.templates_store import disk_errors, private_directory, unfinished
from atoll.model import Layer, Template, TemplateError, UnknownTemplate

BASE = "base"
CODE_INTERPRETER = "code-interpreter"
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
OLDEST_FOR_CELLS = (3, 8)
"""The contexts' runner is written for this Python and later ones."""

PRELOAD = ("IPython", "numpy", "pandas", "matplotlib.pyplot", "matplotlib_inline.backend_inline")
"""What a context of code-interpreter finds imported. scipy, scikit-learn and sympy would double
the zygote's private memory, and with it the time of every fork: they are imported when used."""


@dataclass(frozen=True)
class TemplateInfo:
    """What is known of a template without building it."""

    name: str
    built: bool
    description: str
    directory: Path | None = None


class Templates:
    """The templates that sandboxes of one data directory can be made from."""

    def __init__(self, data_dir: Path) -> None:
        self._layers = data_dir / "layers"
        self._environments = data_dir / "templates" / CODE_INTERPRETER
        self._added: dict[str, Template] = {}
        self._ready: dict[str, Template] = {}
        self._asked: dict[str, Template] = {}

    def add(self, template: Template) -> None:
        """Make a template known by its name, for as long as this object lives."""
        self._added[template.name] = template

    def names(self) -> list[str]:
        """Every name that `get` knows."""
        return [CODE_INTERPRETER, BASE, *self._added]

    def list(self) -> list[TemplateInfo]:
        """All templates, and whether each is built."""
        base = TemplateInfo(BASE, True, "this machine's programs, read-only")
        added = [TemplateInfo(name, True, "made by this process") for name in self._added]
        return [self._code_interpreter_info(), base, *added]

    def _code_interpreter_info(self) -> TemplateInfo:
        try:
            interpreter = choose_interpreter()
        except TemplateError as error:
            return TemplateInfo(CODE_INTERPRETER, False, error.message)
        directory = self._environments / environment_key(interpreter)
        version = ".".join(map(str, interpreter.version))
        text = f"Python {version} with numpy, pandas, matplotlib and more; Node.js"
        return TemplateInfo(CODE_INTERPRETER, directory.is_dir(), text, directory)

    async def get(self, name: str, report: Report | None = None) -> Template:
        """The template called `name`, built first if it must be.

        Args:
            name: as `list` gives it.
            report: told of a build's progress; None shows a bar if standard error is a terminal.

        Raises:
            UnknownTemplate: there is none of this name.
            TemplateError: it cannot be built here; the message says why.
        """
        if name in self._added:
            return await self.resolve(self._added[name])
        if name not in (BASE, CODE_INTERPRETER):
            raise UnknownTemplate(
                f"there is no template {name!r}", hint=f"known are: {', '.join(self.names())}"
            )
        if name not in self._ready:
            if name == BASE:
                self._ready[name] = await anyio.to_thread.run_sync(self._base)
            else:
                self._ready[name] = await self._code_interpreter(report)
        return self._ready[name]

    async def resolve(self, template: str | Template) -> Template:
        """What a sandbox is made of: a name's template, or the caller's own, made complete."""
        if isinstance(template, str):
            return await self.get(template)
        if template.rootfs is None:
            return template
        if template.name not in self._ready or self._asked.get(template.name) != template:
            self._ready[template.name] = await anyio.to_thread.run_sync(
                completed, template, self._layers
            )
            self._asked[template.name] = template
        return self._ready[template.name]

    async def build(self, name: str, report: Report | None = None) -> Template:
        """The same as `get`: what is built already is not built again."""
        return await self.get(name, report)

    def _base(self) -> Template:
        layers = (
            Layer("/", (atoll_layer(self._layers), machine_skeleton(self._layers))),
            *machine_layers(self._layers),
        )
        python = system_interpreter()
        usable = python is not None and python.version >= OLDEST_FOR_CELLS
        return Template(
            name=BASE,
            layers=layers,
            env=_environment(f"/home/user/.local/bin:{SYSTEM_PATH}"),
            python=str(SYSTEM_PYTHON) if usable else None,
            node=_machine_node(),
        )

    async def _code_interpreter(self, report: Report | None) -> Template:
        interpreter = choose_interpreter()
        base = await anyio.to_thread.run_sync(self._base)
        built = await self._built_environment(interpreter, report)
        return replace(
            base,
            name=CODE_INTERPRETER,
            layers=_with_environment(base.layers, built, interpreter),
            env=_environment(f"{ENVIRONMENT}/bin:/home/user/.local/bin:{SYSTEM_PATH}"),
            python=f"{ENVIRONMENT}/bin/python3",
            node=NODE,
            preload=PRELOAD,
        )

    async def _built_environment(self, interpreter: Interpreter, report: Report | None) -> Path:
        key = environment_key(interpreter)
        final = self._environments / key
        if final.is_dir():
            return final
        with disk_errors(self._environments):
            private_directory(self._environments.parent)
            private_directory(self._environments)
        with ExitStack() as stack:
            if report is None:
                report = stack.enter_context(automatic_report(f"template {CODE_INTERPRETER}"))
            lock = await _locked(self._environments / f".lock-{key}", report)
            stack.callback(os.close, lock)
            if not final.is_dir():
                work = stack.enter_context(unfinished(self._environments, key))
                await EnvironmentBuild(work, interpreter, report).run(lock)
        return final


async def _locked(path: Path, report: Report) -> int:
    """A descriptor that holds the builder's lock at `path`; waits for another process's build."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                report(BuildProgress("Waiting for another builder"))
                await anyio.sleep(0.2)
            else:
                return descriptor
    except BaseException:
        os.close(descriptor)
        raise


def _with_environment(
    layers: tuple[Layer, ...], built: Path, interpreter: Interpreter
) -> tuple[Layer, ...]:
    """`layers` with the environment on top of /opt, and its ready caches in the home."""
    top = layers[0]
    root = Layer("/", (top.lowers[0], built / "root", *top.lowers[1:]))
    machine_opt = next((layer.lowers for layer in layers if layer.mountpoint == "/opt"), ())
    others = tuple(layer for layer in layers[1:] if layer.mountpoint != "/opt")
    laid = (interpreter.layer,) if interpreter.layer else ()
    return (root, *others, Layer("/opt", (built / "opt", *machine_opt)), *laid)


def _environment(path: str) -> dict[str, str]:
    return {"PATH": path, "LANG": "C.UTF-8", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


def _machine_node() -> str | None:
    for place in (Path("/usr/local/bin/node"), Path("/usr/bin/node")):
        real = place.resolve()
        # A link into somebody's home would lead nowhere inside.
        if real.is_relative_to("/usr") and os.access(real, os.X_OK):
            return str(place)
    return None
