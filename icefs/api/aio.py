"""Asynchronous twins of synchronous methods."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from functools import wraps
from typing import Any


def asynchronous[**P, R](function: Callable[P, R]) -> Callable[P, Coroutine[Any, Any, R]]:
    """Makes the coroutine function that runs `function` on another thread."""

    @wraps(function)
    async def run(*args: P.args, **kwargs: P.kwargs) -> R:
        return await asyncio.to_thread(function, *args, **kwargs)

    run.__name__ = f"{function.__name__}_async"
    run.__qualname__ = f"{function.__qualname__}_async"
    run.__doc__ = f"Does what `{function.__name__}` does, without blocking the event loop."
    return run


class DualIterator[T](Iterator[T], AsyncIterator[T]):
    """An iterator for `for` and for `async for`; either way each item comes once."""

    def __init__(self, items: Iterator[T]) -> None:
        self._items = items

    def __iter__(self) -> "DualIterator[T]":
        return self

    def __next__(self) -> T:
        return next(self._items)

    def __aiter__(self) -> "DualIterator[T]":
        return self

    async def __anext__(self) -> T:
        # StopIteration cannot leave a future, so the end is a value here.
        end = object()
        item = await asyncio.to_thread(next, self._items, end)
        if item is end:
            raise StopAsyncIteration
        return item  # type: ignore[return-value]  # it is not `end`

    async def aclose(self) -> None:
        """Ends the iteration."""
        self._items = iter(())
