"""Clocks: what bounded staleness allows, how a clock's minibatch is cut, and what was measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from paramserver.types import Span

EXACT = 64


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
    """Counts of non-negative integers, with their exact mean and maximum.

    Values of 64 and more are counted by powers of two, so its size is bounded.
    """

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()
        self._sum = 0
        self.total = 0
        self.max = 0

    def __repr__(self) -> str:
        return f"<Histogram of {self.total}: mean {self.mean:.2f}, max {self.max}>"

    def add(self, value: int) -> None:
        """Count ``value``."""
        self._counts[value if value < EXACT else 1 << (value.bit_length() - 1)] += 1
        self._sum += value
        self.total += 1
        self.max = max(self.max, value)

    @property
    def mean(self) -> float:
        """The mean of the values, 0 where there are none."""
        return self._sum / self.total if self.total else 0.0

    def save(self) -> list[Any]:
        """Return all of it as JSON-able values, for `load`."""
        return [sorted(self._counts.items()), self._sum, self.total, self.max]

    @classmethod
    def load(cls, values: Sequence[Any]) -> Histogram:
        """Return the histogram that `save` saw."""
        loaded = cls()
        counts, loaded._sum, loaded.total, loaded.max = values
        loaded._counts.update({int(value): int(n) for value, n in counts})
        return loaded

    def dump(self) -> dict[str, int]:
        """Return the counts by value, from 64 on by the power of two below it, as JSON-able values."""
        return {str(value): n for value, n in sorted(self._counts.items())}
