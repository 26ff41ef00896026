"""The IPython interpreter of a context: magics, ``!``, formatters; its slow paths left out.

IPython's own `run_cell` is used only by magics that run code. Cells that are pure Python never
meet its input transformers, its history or its traceback formatter.
"""

from __future__ import annotations

import ast
import asyncio  # noqa: F401 - for the first cell with an await: a zygote's forks share it
import builtins
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from IPython.core.displayhook import DisplayHook
from IPython.core.displaypub import DisplayPublisher
from IPython.core.interactiveshell import InteractiveShell
from traitlets import observe
from traitlets.config import Config

from atoll.guest.contexts import figures, mime
from atoll.guest.contexts.plain import Interpreter, input_unavailable, leave

_AS_REPR = frozenset({int, bool, str, bytes})


class CellPublisher(DisplayPublisher):  # type: ignore[misc]
    """Sends what IPython displays to the running cell."""

    interpreter: IPythonInterpreter | None = None

    def publish(self, data: dict[str, Any], metadata: Any = None, **unused: Any) -> None:
        """One display; metadata and display ids have no place in our protocol."""
        if self.interpreter is not None:
            self.interpreter.publish(dict(data), False)

    def _setup_execution_tracking(self) -> None:
        """IPython would run a hook at both ends of every cell."""

    def clear_output(self, wait: bool = False) -> None:
        """Nothing that was sent can be taken back."""


class CellDisplayHook(DisplayHook):  # type: ignore[misc]
    """Sends values that IPython itself runs (by a magic) to the running cell."""

    interpreter: IPythonInterpreter | None = None

    @property
    def prompt_count(self) -> int:
        """The running cell's number; IPython's own differs between its versions."""
        return self.interpreter.count if self.interpreter is not None else 0

    def __call__(self, result: object = None) -> None:
        """Show one value."""
        if result is not None and self.interpreter is not None:
            self.interpreter.show(result)


class CellShell(InteractiveShell):  # type: ignore[misc]
    """An InteractiveShell without files, history database, threads and terminal."""

    interpreter: IPythonInterpreter | None = None

    def init_environment(self) -> None:
        """IPython would touch the environment here."""

    def init_virtualenv(self) -> None:
        """The interpreter is the template's own: no other environment is looked for."""

    def showtraceback(self, exc_tuple: Any = None, *unused: Any, **options: Any) -> None:
        """Report an error of code that a magic ran."""
        error = exc_tuple[1] if exc_tuple else sys.exc_info()[1]
        if error is None:
            error = getattr(sys, "last_value", None)
        if error is not None and self.interpreter is not None:
            self.interpreter.report(error)

    def showsyntaxerror(self, *unused: Any, **options: Any) -> None:
        """Report a syntax error of code that a magic ran."""
        self.showtraceback()

    def enable_gui(self, gui: str | None = None) -> None:
        """There is no screen."""

    def enable_matplotlib(self, gui: str | None = None) -> tuple[str, str]:
        """%matplotlib: figures always go to the cell."""
        figures.follow_imports()
        return "inline", figures.BACKEND

    def system(self, command: str) -> None:
        """``!command``: its output goes where that of the context goes."""
        command = self.var_expand(command, depth=1)
        sys.stdout.flush()
        shell = os.environ.get("SHELL") or "/bin/sh"
        self.user_ns["_exit_code"] = run_shell(command, shell)

    system_piped = system
    system_raw = system

    def ask_exit(self) -> None:
        """Exit autocalls: the context goes on, the cell does not."""
        leave()


class IPythonInterpreter(Interpreter):
    """Cells in an IPython shell."""

    def __init__(self) -> None:
        super().__init__()
        self._shell = self._make_shell()
        # What every cell needs, without IPython's attribute machinery: that would touch, and
        # after a fork copy, a hundred pages.
        self._formatters = self._shell.display_formatter.formatters
        self._text = self._formatters["text/plain"]
        self._printers = [formatter.type_printers for formatter in self._formatters.values()]
        self._printers_before = [set(printers) for printers in self._printers]
        self._inputs = self._shell.history_manager.input_hist_parsed
        self._raw_inputs = self._shell.history_manager.input_hist_raw
        self._tree_transformers = self._shell.ast_transformers
        self._draw_figures()

    def attach(self) -> None:
        """Become ``__main__``; display() is IPython's own."""
        super().attach()
        from IPython.display import display

        builtins.display = display  # type: ignore[attr-defined]
        builtins.get_ipython = self._shell.get_ipython  # type: ignore[attr-defined]
        sys.displayhook = self._shell.displayhook

    def parse(self, source: str, filename: str) -> ast.Module:
        """The tree of a cell; only what is not pure Python meets IPython's transformers."""
        shell = self._shell
        shell.execution_count = self.count
        self._raw_inputs.append(source)
        tree = None if shell.input_transformers_post else self._parse_python(source, filename)
        if tree is None or self._is_automagic(tree):
            source = shell.transform_cell(source)
            tree = self.to_tree(source, filename)
        self._inputs.append(source)
        for transformer in self._tree_transformers:
            tree = transformer.visit(tree)
        return tree

    def bundle(self, value: object) -> dict[str, Any]:
        """What IPython's formatters make of `value`."""
        kind = type(value)
        if kind in mime.PLAIN_TYPES and not self._has_new_printer(kind):
            # IPython's pretty printer says the same of these as repr().
            return {"text/plain": repr(value) if kind in _AS_REPR else self._text(value)}
        data, _ = self._shell.display_formatter.format(value)
        if not data:
            # The value displayed itself (_ipython_display_).
            return {}
        return dict(data)

    def show(self, value: object) -> None:
        """Publish a value and keep it as ``_``, ``_N`` and in ``Out``."""
        data = self.bundle(value)
        self._shell.displayhook.update_user_ns(value)
        if data:
            self.publish(data, True)

    def forget(self, before: dict[str, Any]) -> None:
        """Also empty IPython's own memory of inputs and outputs."""
        super().forget(before)
        for inputs in (self._inputs, self._raw_inputs):
            inputs[:] = [""]
        self.namespace["_oh"].clear()
        hook = self._shell.displayhook
        hook._, hook.__, hook.___ = "", "", ""

    def finish(self) -> None:
        """Run the hooks that a cell's end has."""
        super().finish()
        shell = self._shell
        for event in ("post_execute", "post_run_cell"):
            if shell.events.callbacks[event]:
                arguments = (None,) if event == "post_run_cell" else ()
                shell.events.trigger(event, *arguments)

    def _make_shell(self) -> CellShell:
        config = Config()
        config.HistoryManager.enabled = False
        config.InteractiveShell.colors = "nocolor"
        config.InteractiveShell.autoindent = False
        config.Completer.use_jedi = False
        CellShell.clear_instance()
        shell: CellShell = CellShell.instance(
            config=config,
            ipython_dir=str(_directory()),
            profile_dir=_profile(),
            user_module=self.module,
            user_ns=self.namespace,
            display_pub_class=CellPublisher,
            displayhook_class=CellDisplayHook,
        )
        shell.interpreter = self
        shell.display_pub.interpreter = self
        shell.displayhook.interpreter = self
        for name in ("exit", "quit"):
            self.namespace.pop(name, None)
        shell.raw_input = input_unavailable
        return shell

    def _parse_python(self, source: str, filename: str) -> ast.Module | None:
        try:
            return self.to_tree(source, filename)
        except (SyntaxError, ValueError):
            return None

    def _is_automagic(self, tree: ast.Module) -> bool:
        """True for one line such as ``ls`` or ``ls -l``: valid Python, but a magic's name."""
        if len(tree.body) != 1 or not isinstance(tree.body[0], ast.Expr):
            return False
        value = tree.body[0].value
        while isinstance(value, ast.BinOp):
            value = value.left
        if not isinstance(value, ast.Name):
            return False
        name = value.id
        if name in self.namespace or hasattr(builtins, name):
            return False
        return self._shell.find_line_magic(name) is not None

    def _has_new_printer(self, kind: type) -> bool:
        """True if a cell has registered a printer for the type."""
        before = self._printers_before
        return any(
            kind in printers and kind not in before[index]
            for index, printers in enumerate(self._printers)
        )

    def _draw_figures(self) -> None:
        for mime_type, draw in (
            ("image/png", figures.figure_png),
            ("image/svg+xml", figures.figure_svg),
        ):
            self._formatters[mime_type].for_type_by_name("matplotlib.figure", "Figure", draw)


def _profile() -> Any:
    """A profile that is not on disk."""
    from IPython.core.profiledir import ProfileDir

    class NoProfileDir(ProfileDir):  # type: ignore[misc]
        """Names directories, makes none."""

        @observe("location")  # type: ignore[untyped-decorator]
        def _location_changed(self, change: Any) -> None:
            """Nothing is made."""

        @observe("log_dir")  # type: ignore[untyped-decorator]
        def check_log_dir(self, change: Any = None) -> None:
            """Nothing is made."""

        @observe("startup_dir")  # type: ignore[untyped-decorator]
        def check_startup_dir(self, change: Any = None) -> None:
            """Nothing is made."""

        @observe("security_dir")  # type: ignore[untyped-decorator]
        def check_security_dir(self, change: Any = None) -> None:
            """Nothing is made."""

        @observe("pid_dir")  # type: ignore[untyped-decorator]
        def check_pid_dir(self, change: Any = None) -> None:
            """Nothing is made."""

    return NoProfileDir(location=str(_directory() / "profile_default"))


def _directory() -> Path:
    """Where IPython may keep what it likes to keep; no other account's."""
    return Path(tempfile.gettempdir()) / f"ipython-{os.getuid()}"


def run_shell(command: str, shell: str) -> int:
    """Run one shell command on our descriptors; if a cell captures sys.stdout, through it."""
    captures = sys.stdout is not sys.__stdout__
    with subprocess.Popen(
        [shell, "-c", command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE if captures else None,
        stderr=subprocess.STDOUT if captures else None,
    ) as process:
        if process.stdout is not None:
            for line in process.stdout:
                sys.stdout.write(line.decode("utf-8", "replace"))
        return process.wait()
