"""Plain methods for objects whose methods are coroutines: calls into an event loop's thread."""

from __future__ import annotations

import functools
import inspect
import itertools
from abc import ABC, abstractmethod
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterator,
    Mapping,
)
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar, overload

import anyio.to_thread
from anyio.from_thread import BlockingPortal

from atoll.model import InvalidArgument

T = TypeVar("T")
U = TypeVar("U")
P = ParamSpec("P")
R = TypeVar("R")
F = TypeVar("F")


class Front(Generic[T]):
    """Stands for an object of T, which lives in an event loop of another thread.

    Args:
        opened: the way into the loop, and the object; None until there are any.
    """

    def __init__(self, opened: tuple[BlockingPortal, T] | None) -> None:
        self._opened = opened

    def __repr__(self) -> str:
        return f"<sync front of {self._opened[1] if self._opened else None!r}>"

    @property
    def _target(self) -> T:
        return self._here()[1]

    def _here(self) -> tuple[BlockingPortal, T]:
        if self._opened is None:
            name = type(self).__name__
            raise InvalidArgument(
                f"this {name} is not running", hint=f"use it in a block: `with {name}() as ...:`"
            )
        return self._opened

    def _beside(self, target: U) -> tuple[BlockingPortal, U]:
        """What the front of another object of the same loop is made with."""
        return self._here()[0], target

    def _call(
        self, method: Callable[Concatenate[T, P], Awaitable[R]], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        return self._run(lambda target: method(target, *args, **in_threads(kwargs)))

    def _run(self, work: Callable[[T], Awaitable[R]]) -> R:
        portal, target = self._here()
        return portal.call(work, target)

    def _iterate(self, items: AsyncIterator[U]) -> Iterator[U]:
        portal = self._here()[0]
        while True:
            try:
                yield portal.call(items.__anext__)
            except StopAsyncIteration:
                return


class Closing(ABC):
    """What is used in a block and ends with it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._leave()

    @abstractmethod
    def _leave(self) -> None:
        """The block has ended."""


class Method(Generic[T, P, R]):
    """A method of a `Front[T]`, with the parameters of T's own."""

    def __init__(
        self, like: Callable[..., object], call: Callable[Concatenate[Front[T], P], R]
    ) -> None:
        self._like = like
        self._call = call

    @overload
    def __get__(self, front: None, owner: type) -> Self: ...

    @overload
    def __get__(self, front: Front[T], owner: type) -> Callable[P, R]: ...

    def __get__(self, front: Front[T] | None, owner: type) -> Self | Callable[P, R]:
        if front is None:
            return self
        return functools.wraps(self._like)(functools.partial(self._call, front))


def giving(
    make: Callable[[tuple[BlockingPortal, U]], F],
    method: Callable[Concatenate[T, P], Awaitable[U]],
) -> Method[T, P, F]:
    """A coroutine method whose result has a front as well: `make`."""

    def call(front: Front[T], /, *args: P.args, **kwargs: P.kwargs) -> F:
        return make(front._beside(front._call(method, *args, **kwargs)))

    return Method(method, call)


def blocking(method: Callable[Concatenate[T, P], Awaitable[R]]) -> Method[T, P, R]:
    """A coroutine method: the call returns when it has."""

    def call(front: Front[T], /, *args: P.args, **kwargs: P.kwargs) -> R:
        return front._call(method, *args, **kwargs)

    return Method(method, call)


def plain(method: Callable[Concatenate[T, P], R]) -> Method[T, P, R]:
    """A method that is no coroutine, but is called in the loop's thread all the same."""
    return blocking(soon(method))


def soon(
    method: Callable[Concatenate[T, P], R],
) -> Callable[Concatenate[T, P], Coroutine[None, None, R]]:
    """The same as a coroutine method."""

    @functools.wraps(method)
    async def call(target: T, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return method(target, *args, **kwargs)

    return call


def in_threads(options: Mapping[str, object]) -> dict[str, Any]:
    """The same keyword arguments, their callbacks (`on_...`) called in worker threads.

    A callback may block and may call back into the front, which the loop's own thread may not.
    """
    return {
        name: _in_thread(value) if name.startswith("on_") and callable(value) else value
        for name, value in options.items()
    }


def _in_thread(callback: Callable[..., object]) -> Callable[..., Awaitable[None]]:
    async def call(*args: object) -> None:
        outcome = await anyio.to_thread.run_sync(functools.partial(callback, *args))
        if inspect.isawaitable(outcome):
            await outcome

    return call


async def pieces(values: Iterator[U]) -> AsyncIterator[U]:
    """`values`, each taken in a worker thread, as it may block."""

    def take() -> list[U]:
        return list(itertools.islice(values, 1))

    while taken := await anyio.to_thread.run_sync(take):
        yield taken[0]
