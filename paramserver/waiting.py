"""Waiting with an end: for a condition, and for several requests at once."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, TypeVar

from paramserver.errors import ParamserverError

T = TypeVar("T")


class Changes:
    """Wakes everybody who waits for something to become true, whenever something changed."""

    def __init__(self) -> None:
        self._waiters: set[asyncio.Future[None]] = set()

    def __repr__(self) -> str:
        return f"<Changes with {len(self._waiters)} waiters>"

    def notify(self) -> None:
        """Let every waiter look again."""
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()

    async def until(self, predicate: Callable[[], bool], seconds: float) -> bool:
        """Wait until ``predicate()`` holds, for ``seconds`` at most; return whether it does."""
        if predicate():
            return True
        loop = asyncio.get_running_loop()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while True:
                    waiter: asyncio.Future[None] = loop.create_future()
                    self._waiters.add(waiter)
                    try:
                        await waiter
                    finally:
                        self._waiters.discard(waiter)
                    if predicate():
                        return True
        return predicate()


async def all_of(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Run coroutines at once and return their results in order.

    The first to fail cancels the others, and its error is raised as it is. (Not by a TaskGroup: in
    Python 3.11 one whose child fails leaves its caller with a cancellation that nobody asked for,
    and an `asyncio.timeout` around it raises CancelledError when it fires later.)
    """
    coroutines = list(work)
    if len(coroutines) == 1:
        return [await coroutines[0]]
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        failed = [task.exception() for task in tasks if task.done() and not task.cancelled()]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    if errors := [error for error in failed if error is not None]:
        raise _telling(errors)
    return [task.result() for task in tasks]


async def end(task: asyncio.Task[Any]) -> None:
    """Cancel a task until it has ended.

    Once may not do: an `asyncio.TaskGroup` that is ending by an error swallows a cancellation, and
    what tries again after the error goes on.
    """
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=1.0)


def first_error(several: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the error that says most of a group: one of ours where there is one."""
    return _telling(list(_flatten(several)))


def _telling(errors: Sequence[BaseException]) -> BaseException:
    return next((error for error in errors if isinstance(error, ParamserverError)), errors[0])


def _flatten(several: BaseExceptionGroup[BaseException]) -> Iterable[BaseException]:
    for error in several.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _flatten(error)
        else:
            yield error
