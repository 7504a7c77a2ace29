"""Ranges of an epoch's permutation, as ssp and asp lend them: each position is done once."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

from paramserver.runstate import Epoch, Tally
from paramserver.types import Span

LEASE_MINIBATCHES = 32


class Lending:
    """What is lent of a run's epochs, and what came back undone."""

    def __init__(self, epochs: int, examples: int) -> None:
        self._wanted = epochs
        self._examples = examples
        self._epochs: dict[int, Epoch] = {}
        self._next = 0
        self._returned: deque[tuple[int, Span]] = deque()

    def __repr__(self) -> str:
        return f"<Lending: epoch {self._next}, {len(self._returned)} ranges came back>"

    def lend(self, stride: int, workers: int, *, ahead_of: int | None) -> tuple[int, Span] | None:
        """Return (epoch, range) for a worker, None where there is none now.

        What came back goes out first. A range is a share of what is left for so many ``workers``,
        in whole strides. Nothing of the epoch after ``ahead_of`` whole ones is lent, if that is given.
        """
        if self._returned:
            return self._returned.popleft()
        if self._next >= self._wanted or (ahead_of is not None and ahead_of < self._next):
            return None
        current = self._epochs.setdefault(self._next, Epoch(self._next))
        share = self._examples // max(8 * workers * stride, 1)
        length = stride * min(max(share, 1), LEASE_MINIBATCHES)
        span = Span(current.lent, min(current.lent + length, self._examples))
        current.lent = span.stop
        if span.stop >= self._examples:
            self._next += 1  # before it can be done, and forgotten: each epoch is lent once
        return current.number, span

    def give_back(self, epoch: int, span: Span) -> None:
        """Take back a range, or what is left of it."""
        if len(span):
            self._returned.append((epoch, span))

    def note(self, epoch: int, tally: Tally) -> Tally | None:
        """Count what was done of an epoch; return its sums where that was the last of it."""
        sums = self._epochs[epoch].tally
        sums.add(tally.examples, tally.loss, tally.correct)
        if sums.examples < self._examples:
            return None
        del self._epochs[epoch]
        return sums

    def save(self, lent: Iterable[tuple[int, Span]]) -> dict[str, Any]:
        """Return all of it as JSON-able values for `load`, with what is ``lent`` as come back."""
        undone = sorted(
            (epoch, span.start, span.stop) for epoch, span in (*self._returned, *lent) if len(span)
        )
        epochs = [
            (one.number, one.lent, (one.tally.examples, one.tally.loss, one.tally.correct))
            for one in self._epochs.values()
        ]
        return {"next": self._next, "undone": undone, "epochs": epochs}

    def load(self, values: Mapping[str, Any]) -> None:
        """Take over what `save` saw."""
        self._epochs = {
            number: Epoch(number, lent, Tally(*sums)) for number, lent, sums in values["epochs"]
        }
        self._next = int(values["next"])
        self._returned = deque(
            (epoch, Span(start, stop)) for epoch, start, stop in values["undone"]
        )
