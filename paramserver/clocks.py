"""Clocks: what bounded staleness allows, how a clock's minibatch is cut, and what was measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

from paramserver.types import Span


def admitted(clock: int, staleness: int, active: Iterable[int]) -> bool:
    """Say whether a worker at ``clock`` may pull under SSP with bound ``staleness``.

    It may when every active worker is at ``clock − staleness`` or beyond (Ho et al. 2013,
    "More Effective Distributed ML via a Stale Synchronous Parallel Parameter Server").
    """
    return all(other >= clock - staleness for other in active)


def cut(span: Span, parts: int) -> tuple[Span, ...]:
    """Cut a clock's positions into ``parts`` parts whose lengths differ by at most one."""
    length = len(span)
    edges = [span.start + length * part // parts for part in range(parts + 1)]
    return tuple(Span(a, b) for a, b in pairwise(edges))


class Histogram:
    """Counts of small non-negative integers, with their mean and maximum."""

    def __init__(self) -> None:
        self.counts: Counter[int] = Counter()

    def __repr__(self) -> str:
        return f"<Histogram of {self.total}: mean {self.mean:.2f}, max {self.max}>"

    def add(self, value: int, times: int = 1) -> None:
        """Count ``value``, ``times`` times."""
        self.counts[value] += times

    @property
    def total(self) -> int:
        """How many values were counted."""
        return sum(self.counts.values())

    @property
    def mean(self) -> float:
        """The mean of the values, 0 where there are none."""
        total = self.total
        return sum(value * n for value, n in self.counts.items()) / total if total else 0.0

    @property
    def max(self) -> int:
        """The largest value, 0 where there are none."""
        return max(self.counts, default=0)

    def dump(self) -> dict[str, int]:
        """Return the counts by value, as JSON-able values."""
        return {str(value): n for value, n in sorted(self.counts.items())}
