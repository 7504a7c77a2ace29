"""Time many runs of one case, one after another."""

from __future__ import annotations

import time
from collections.abc import Callable

TURN = 0.05
QUICK_TURN = 0.005
"""Seconds that one turn takes, or one run where that is longer."""

BEYOND_CACHES = 64 << 20
MOST_SETS = 16
MOST_RUNS = 4000
"""So many runs may be under way at once on a device."""


def sets_for(size: int) -> int:
    """Return how many sets of buffers of ``size`` bytes each are used in turn.

    As many as no cache holds, so that each run meets inputs that are not where the run before left
    its own; 16 of small ones, which a training step would find in a cache too.
    """
    return min(max(-(-BEYOND_CACHES // size), 1), MOST_SETS)


class Loop:
    """Runs of one case over sets of buffers in turn.

    A turn is preceded by one that is not timed: what was at rest while the other side had its turn
    is slow at first, processors and threads alike.

    Args:
        run: starts or does the case with the set of this number.
        sets: how many sets there are.
        quick: whether turns are short.
        finish: waits for what was started.
    """

    def __init__(
        self,
        run: Callable[[int], object],
        sets: int,
        *,
        quick: bool,
        finish: Callable[[], object] = lambda: None,
    ) -> None:
        self._run = run
        self._sets = sets
        self._finish = finish
        self._next = 0
        self._count = sets
        self._warm = 0.0
        self.seconds()  # every set once, to warm up
        turn = QUICK_TURN if quick else TURN
        self._count = min(max(round(turn / self.seconds()), 1), MOST_RUNS)
        self._warm = turn

    def seconds(self, *, wait_each: bool = False) -> float:
        """Return the mean seconds of a run, of many with one wait at the end, or with one each."""
        warm = time.perf_counter() + self._warm
        while time.perf_counter() < warm:
            self._turn(wait_each=wait_each)
        start = time.perf_counter()
        self._turn(wait_each=wait_each)
        return (time.perf_counter() - start) / self._count

    def _turn(self, *, wait_each: bool) -> None:
        run, finish, sets = self._run, self._finish, self._sets
        first, stop = self._next, self._next + self._count
        self._next = stop % sets
        for number in range(first, stop):
            run(number % sets)
            if wait_each:
                finish()
        finish()


class Looped:
    """A side that measures with one loop, which `prepare` makes."""

    loop: Loop

    async def measure(self) -> dict[str, float]:
        """Return the mean seconds of a run."""
        return {"seconds": self.loop.seconds()}
