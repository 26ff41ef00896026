"""Python contexts in two phases, so that a zygote can fork between them: `warm`, then `serve`.

A zygote calls ``warm(modules)``, forks, and its child calls ``serve(3)`` once it has its
descriptors, directory and environment.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import os
import sys
from typing import NoReturn

from atoll.guest.contexts import blas, figures, memory
from atoll.guest.contexts.channel import Channel
from atoll.guest.contexts.plain import Interpreter
from atoll.guest.contexts.rehearsal import rehearse
from atoll.guest.contexts.reseed import Generators
from atoll.guest.contexts.session import Session


class PythonContext:
    """One interpreter, warmed once and served after a fork (or in this very process)."""

    def __init__(self, preload: list[str], plain: bool = False) -> None:
        blas.hold_to_one()
        if "site" not in sys.modules:
            _add_site_packages()
        self._interpreter = _make_interpreter(plain)
        for name in preload:
            importlib.import_module(name)
        figures.follow_imports()
        self._libraries = blas.find_libraries()
        self._generators = Generators()

    def rehearse(self) -> None:
        """Touch what cells need, so that forks find it in memory."""
        rehearse(self._interpreter)
        figures.forget_fonts()

    def serve(self, control_fd: int) -> NoReturn:
        """Answer cells on `control_fd`, printing to 1 and 2, until the host ends it."""
        _own_process_group()
        self._generators.reseed()
        blas.release_environment()
        self._interpreter.before_import = self._lift
        _add_user_paths()
        Session(Channel(control_fd), self._interpreter).serve()

    def _lift(self) -> None:
        blas.lift(self._libraries)


_warmed: list[PythonContext] = []
"""The context of this process: serve() has no other way to it in a fork."""


def warm(preload: list[str], *, plain: bool = False) -> None:
    """Everything that can be done before the fork.

    Args:
        preload: modules to import.
        plain: True for the plain interpreter even where IPython is installed.

    Raises:
        ImportError: a module of `preload` is not there.
        RuntimeError: there is more than one thread now.
    """
    context = PythonContext(preload, plain)
    context.rehearse()
    _warmed[:] = [context]
    threads = os.listdir("/proc/self/task")
    if len(threads) != 1:
        raise RuntimeError(f"a preload of {preload} left {len(threads)} threads running")
    gc.collect()
    gc.freeze()
    memory.give_back()
    memory.make_huge()


def serve(control_fd: int) -> NoReturn:
    """Answer cells; what `warm` has not done before is done now."""
    if not _warmed:
        warm([])
    _warmed[0].serve(control_fd)


def _make_interpreter(plain: bool) -> Interpreter:
    if not plain and importlib.util.find_spec("IPython") is not None:
        from atoll.guest.contexts.ipython import IPythonInterpreter

        return IPythonInterpreter()
    return Interpreter()


def _add_site_packages() -> None:
    """A zygote started with -S has no site-packages yet."""
    import site

    site.main()


def _add_user_paths() -> None:
    """What -I leaves out: modules beside the cell, and those that pip installed for the user."""
    home = os.environ.get("HOME")
    if home:
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        sys.path.append(f"{home}/.local/lib/{version}/site-packages")
    if "" not in sys.path:
        sys.path.insert(0, "")


def _own_process_group() -> None:
    """An interrupt goes to the context's process group: it must hold nothing else."""
    if os.getpgrp() != os.getpid():
        os.setsid()
