"""The requests that one side of a connection has under way: their numbers and their deadlines."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from paramserver.errors import ParamserverError
from paramserver.wire.protocol import Frame

HIGHEST_NUMBER = 0xFFFFFFFF


@dataclass(slots=True)
class Pending:
    """A request that waits for its answer until ``until``, on the event loop's clock."""

    future: asyncio.Future[Frame]
    into: Sequence[memoryview] | None
    on_interim: Callable[[Any], None] | None
    name: str
    deadline: float
    until: float

    def fail(self, error: ParamserverError) -> None:
        """End the wait with an error, unless it is over."""
        if not self.future.done():
            self.future.set_exception(error)


class Asking:
    """Requests by number. ``late`` makes the error of one whose deadline has passed.

    One timer, set to the soonest deadline, serves them all: most are answered long before.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, late: Callable[[Pending], ParamserverError]
    ) -> None:
        self._loop = loop
        self._late = late
        self._number = 0
        self._pending: dict[int, Pending] = {}
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = math.inf
        self.get = self._pending.get
        """Return the request of a number, None where there is none."""

    def __repr__(self) -> str:
        return f"<Asking {len(self._pending)}>"

    def __len__(self) -> int:
        return len(self._pending)

    def add(
        self,
        name: str,
        deadline: float,
        into: Sequence[memoryview] | None,
        on_interim: Callable[[Any], None] | None,
    ) -> tuple[int, asyncio.Future[Frame]]:
        """Enter a request; return a number that no other has (0 is nobody's), and its answer."""
        number = self._number % HIGHEST_NUMBER + 1
        while number in self._pending:
            number = number % HIGHEST_NUMBER + 1
        self._number = number
        future: asyncio.Future[Frame] = self._loop.create_future()
        until = self._loop.time() + deadline
        self._pending[number] = Pending(future, into, on_interim, name, deadline, until)
        if until < self._alarm_at:
            self._set_alarm(until)
        return number, future

    def remove(self, number: int) -> None:
        """Forget a request: it was answered, or nobody waits any more."""
        self._pending.pop(number, None)

    def fail(self, error: Callable[[], ParamserverError]) -> None:
        """Fail all requests, each with an error of its own; there will be no more."""
        self._set_alarm(math.inf)
        for pending in self._pending.values():
            pending.fail(error())

    def _set_alarm(self, until: float) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm_at = until
        self._alarm = self._loop.call_at(until, self._ring) if until < math.inf else None

    def _ring(self) -> None:
        """Fail the requests whose deadline has passed; wake again at the next one."""
        # A timer may ring a tick of the clock early.
        due = max(self._loop.time(), self._alarm_at)
        soonest = math.inf
        for pending in self._pending.values():
            if pending.until <= due:
                pending.fail(self._late(pending))
            else:
                soonest = min(soonest, pending.until)
        self._alarm = None
        self._set_alarm(soonest)
