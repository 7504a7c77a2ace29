"""Choose in which of its ways a side is quickest at a case: on how many threads, in which layout."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from benching.timing import Loop

EACH_UP_TO = 4
TRIALS = 3
"""Turns that each way gets; its quickest counts."""


@dataclass(frozen=True)
class Way:
    """How a case may be run; None and "" where the side has no choice."""

    threads: int | None = None
    layout: str = ""


def counts(cores: int) -> tuple[int, ...]:
    """Return the numbers of threads that are worth a trial on so many cores.

    Each of them for few cores; of many the powers of two, the half (where cores are the two threads
    of a real one) and all.
    """
    if cores <= EACH_UP_TO:
        return tuple(range(1, cores + 1))
    powers = (1 << bit for bit in range(cores.bit_length()))
    return tuple(sorted({*powers, cores // 2, cores}))


def quickest(ways: Iterable[Way], ready: Callable[[Way], Loop]) -> tuple[Way, Loop]:
    """Try each way; return the quickest, and its loop.

    ``ready`` goes over to a way and makes its loop. It is called once more for the way chosen, since
    a number of threads holds for the whole process.
    """
    first, *rest = ways
    if not rest:
        return first, ready(first)
    taken = {way: _try(ready(way)) for way in (first, *rest)}
    best = min(taken, key=lambda way: taken[way])
    return best, ready(best)


def _try(loop: Loop) -> float:
    return min(loop.seconds() for _ in range(TRIALS))
