"""Waiting with an end: for a condition, and for several requests at once."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterable
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

    The first to fail cancels the others, and its error is raised as it is.
    """
    coroutines = list(work)
    if len(coroutines) == 1:
        return [await coroutines[0]]
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(coroutine) for coroutine in coroutines]
    except ExceptionGroup as several:
        raise first_error(several) from several
    return [task.result() for task in tasks]


def first_error(several: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the error that says most of a group: one of ours where there is one."""
    flat = list(_flatten(several))
    ours = [error for error in flat if isinstance(error, ParamserverError)]
    return ours[0] if ours else flat[0]


def _flatten(several: BaseExceptionGroup[BaseException]) -> Iterable[BaseException]:
    for error in several.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _flatten(error)
        else:
            yield error
