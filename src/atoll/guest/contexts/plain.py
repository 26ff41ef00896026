"""The plain Python interpreter of a context: last value, top-level await, no magics.

It imports little, so that its first cell after a fork is quick; `ipython.py` builds on it.
"""

from __future__ import annotations
import __future__

import ast
import builtins
import inspect
import linecache
import sys
import types
from typing import TYPE_CHECKING, Any

from atoll.guest.contexts import figures, mime
from atoll.guest.contexts.event_loop import CellLoop
from atoll.guest.contexts.tracebacks import CELL_PREFIX

if TYPE_CHECKING:
    from collections.abc import Callable

    Publish = Callable[[dict[str, Any], bool], None]
    """Takes a MIME bundle and whether it is the value of the cell's last expression."""

_FUTURES = 0
for _name in __future__.all_feature_names:
    _FUTURES |= getattr(__future__, _name).compiler_flag
_NEEDS_LOOP = ("create_task(", "ensure_future(", "get_running_loop(", "TaskGroup(")


def input_unavailable(prompt: object = "", /) -> str:
    """Stands in for input(): nobody can answer."""
    raise EOFError("input() has no terminal here: a cell cannot ask, pass the value in its code")


def leave(code: object = None) -> None:
    """Stands in for exit() and quit(), which would close standard input first."""
    raise SystemExit(code)


class Interpreter:
    """Runs cells in one namespace.

    Attributes:
        namespace: the variables of the cells, those of the module ``__main__``.
        count: how many cells have run.
        publish: where values and displays go.
        report: where errors go that a cell's code has not raised itself.
        before_import: called once, before the first cell that may import something.
    """

    def __init__(self) -> None:
        self.module = types.ModuleType("__main__")
        self.namespace = self.module.__dict__
        self.namespace["__builtins__"] = builtins
        self.count = 0
        self.publish: Publish = lambda data, main: None
        self.report: Callable[[BaseException], None] = lambda error: None
        self.before_import: Callable[[], None] | None = None
        self.loop = CellLoop()
        self._future_flags = 0

    def attach(self) -> None:
        """Become this process's ``__main__`` and take over what would talk to a terminal."""
        sys.modules["__main__"] = self.module
        for name, stand_in in {
            "input": input_unavailable,
            "exit": leave,
            "quit": leave,
            "display": self.display,
        }.items():
            setattr(builtins, name, stand_in)

    def run(self, source: str, silent: bool) -> None:
        """Run one cell; whatever it raises is raised."""
        if self.before_import is not None and ("import" in source or "%" in source):
            step, self.before_import = self.before_import, None
            step()
        if not silent:
            self.count += 1
        filename = f"{CELL_PREFIX}{self.count}>"
        lines = [f"{line}\n" for line in source.splitlines()]
        linecache.cache[filename] = (len(source), None, lines, filename)
        tree = self.parse(source, filename)
        last = tree.body[-1] if tree.body else None
        parts: list[types.CodeType] = []
        shows = isinstance(last, ast.Expr) and not _ends_with_semicolon(source)
        if isinstance(last, ast.Expr) and shows:
            del tree.body[-1]
        if tree.body:
            parts.append(self._compile(tree, filename, "exec"))
        if isinstance(last, ast.Expr) and shows:
            parts.append(self._compile(ast.Expression(last.value), filename, "eval"))
        value = self._execute(parts, source)
        if shows and not silent and value is not None:
            self.show(value)

    def parse(self, source: str, filename: str) -> ast.Module:
        """The syntax tree of a cell as it was sent."""
        return self.to_tree(source, filename)

    def to_tree(self, source: str, filename: str) -> ast.Module:
        """The syntax tree of Python source. Not by ast.parse, whose frame users would see."""
        flags = ast.PyCF_ONLY_AST | self._future_flags
        tree: ast.Module = compile(source, filename, "exec", flags, dont_inherit=True)
        return tree

    def finish(self) -> None:
        """What is due at the end of a cell, also after an error."""
        figures.publish_open_figures(self.publish)

    def bundle(self, value: object) -> dict[str, Any]:
        """What `value` shows of itself."""
        if figures.is_figure(value):
            return figures.figure_bundle(value)
        return mime.bundle(value)

    def forget(self, before: dict[str, Any]) -> None:
        """Go back to `before`, a copy of the namespace, and to the first cell's number."""
        self.namespace.clear()
        self.namespace.update(before)
        self.count = 0
        linecache.clearcache()
        vars(builtins).pop("_", None)

    def show(self, value: object) -> None:
        """Publish the value of a cell's last expression."""
        builtins._ = value  # type: ignore[attr-defined]
        self.publish(self.bundle(value), True)

    def display(self, *values: object, raw: bool = False, **unused: object) -> None:
        """display() of cells; with ``raw=True`` the values are MIME bundles."""
        for value in values:
            if raw and isinstance(value, dict):
                self.publish(dict(value), False)
            else:
                self.publish(self.bundle(value), False)

    def _compile(self, tree: Any, filename: str, mode: str) -> types.CodeType:
        flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | self._future_flags
        code: types.CodeType = compile(tree, filename, mode, flags, dont_inherit=True)
        self._future_flags |= code.co_flags & _FUTURES
        return code

    def _execute(self, parts: list[types.CodeType], source: str) -> Any:
        waits = any(code.co_flags & inspect.CO_COROUTINE for code in parts)
        if waits or _wants_running_loop(source):
            return self.loop.run(self._in_loop(parts))
        value = None
        for code in parts:
            value = eval(code, self.namespace)  # noqa: S307 - running code is its purpose
        return value

    async def _in_loop(self, parts: list[types.CodeType]) -> Any:
        value = None
        for code in parts:
            value = eval(code, self.namespace)  # noqa: S307
            if code.co_flags & inspect.CO_COROUTINE:
                value = await value
        return value


def _ends_with_semicolon(source: str) -> bool:
    """True if the cell asks for no value by its last character; a comment may follow it."""
    if ";" not in source:
        return False
    line = source.rstrip().rpartition("\n")[2]
    return line.split("#")[0].rstrip().endswith(";")


def _wants_running_loop(source: str) -> bool:
    """True for a cell that starts tasks without an await, as a notebook allows it."""
    if "asyncio" not in source or "asyncio.run(" in source:
        return False
    return any(name in source for name in _NEEDS_LOOP)
