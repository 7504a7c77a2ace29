"""The parts of one bsp clock: whose they are, and which are done."""

from __future__ import annotations

from collections.abc import Iterable

from paramserver.clocks import cut
from paramserver.errors import BadMessage
from paramserver.runstate import Tally
from paramserver.types import PeerId, Span


class ClockParts:
    """A clock's minibatch, cut into parts that are assigned to workers.

    Assignments stand from clock to clock while the workers stay the same, because the same cut is
    given to the same workers in the same order.
    """

    def __init__(self, span: Span, parts: int) -> None:
        self.span = span
        self._spans = cut(span, parts)
        self._done: dict[int, Tally] = {}
        self._owner: dict[int, PeerId] = {}

    def __repr__(self) -> str:
        return f"<ClockParts of {self.span}: {len(self._done)} of {len(self._spans)} done>"

    def assign(self, workers: Iterable[PeerId]) -> None:
        """Give every part that is nobody's to one of the workers, evenly and in order."""
        active = sorted(workers)
        free = [
            part
            for part in range(len(self._spans))
            if part not in self._done and part not in self._owner
        ]
        if not active or not free:
            return
        load = dict.fromkeys(active, 0)
        for part, who in self._owner.items():
            if part not in self._done:
                load[who] = load.get(who, 0) + 1
        standing = len(free) == len(self._spans)
        for rank, part in enumerate(free):
            if not standing:
                who = min(active, key=lambda one: (load[one], one))
            elif len(free) >= len(active):
                who = active[rank * len(active) // len(free)]
            else:
                who = active[rank]
            self._owner[part] = who
            load[who] += 1

    def take_from(self, worker: PeerId) -> None:
        """Take back what a worker has not done."""
        for part, owner in list(self._owner.items()):
            if owner == worker and part not in self._done:
                del self._owner[part]

    def of(self, worker: PeerId) -> list[tuple[int, int, int]]:
        """Return a worker's parts that are not done, as (part, start, stop)."""
        return [
            (part, span.start, span.stop)
            for part, span in enumerate(self._spans)
            if self._owner.get(part) == worker and part not in self._done
        ]

    def note(self, part: int, tally: Tally) -> bool:
        """Take a part's result; False where it is a repeat.

        Raises:
            BadMessage: it is no part of this clock.
        """
        if part in self._done:
            return False
        if not 0 <= part < len(self._spans) or tally.examples != len(self._spans[part]):
            raise BadMessage(f"part {part} with {tally.examples} examples is not lent: {self!r}")
        self._done[part] = tally
        return True

    @property
    def closed(self) -> bool:
        """Whether every part is done."""
        return len(self._done) == len(self._spans)

    def results(self) -> list[Tally]:
        """Return the results, in part order."""
        return [self._done[part] for part in range(len(self._spans))]
