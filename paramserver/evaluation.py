"""Evaluating on the cluster, and deciding by it when to stop. Synchronous, no I/O.

The examples of a split are lent in ranges that depend on their number alone, and the results are
added up in the order of the ranges: the sum is the same bits whoever computed which range, and in
whatever order the answers came.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any, Literal

from paramserver.phrases import counted
from paramserver.runstate import Tally
from paramserver.spec import EarlyStopping
from paramserver.types import Span

Split = Literal["test", "validation"]

RANGE = 1000
"""Examples of one range."""


class Evaluation:
    """One pass over a split. ``number`` tells passes apart: the weights are pulled once in each."""

    def __init__(self, number: int, split: Split, examples: int) -> None:
        self.number = number
        self.split = split
        self._examples = examples
        self._free = deque(
            Span(start, min(start + RANGE, examples)) for start in range(0, examples, RANGE)
        )
        self._results: dict[int, Tally] = {}

    def __repr__(self) -> str:
        return f"<Evaluation {self.number} of {self._examples} {self.split} examples>"

    def lend(self) -> Span | None:
        """Return a range that nobody has, None where there is none."""
        return self._free.popleft() if self._free else None

    def give_back(self, span: Span) -> None:
        """Take a range back from a worker that was dropped."""
        self._free.appendleft(span)

    def note(self, span: Span, tally: Tally) -> None:
        """Take the result of a range."""
        self._results[span.start] = tally

    @property
    def done(self) -> bool:
        """Whether every range has its result."""
        return sum(one.examples for one in self._results.values()) >= self._examples

    def total(self) -> Tally:
        """Return the sum over all ranges, in their order."""
        total = Tally()
        for _, one in sorted(self._results.items()):
            total.add(one.examples, one.loss, one.correct)
        return total


class Judge:
    """What the validations of a run have shown, and whether it is time to stop.

    ``best`` and ``last`` are {"epoch", "steps", "loss", "accuracy"}, None before the first.
    """

    def __init__(self, rule: EarlyStopping) -> None:
        self._rule = rule
        self.best: dict[str, Any] | None = None
        self.last: dict[str, Any] | None = None
        self._since = 0
        self._before = self.save()

    def __repr__(self) -> str:
        return f"<Judge: best {self.best}, {self._since} epochs since>"

    @property
    def judged(self) -> int:
        """The number of epochs that were validated last."""
        return int(self.last["epoch"]) if self.last is not None else 0

    @property
    def is_best(self) -> bool:
        """Whether the last validation was the best."""
        return self.last is not None and self.last == self.best

    def judge(self, epoch: int, steps: int, tally: Tally) -> str | None:
        """Take a validation after so many epochs; return why training should stop, None: go on.

        An improvement is one by more than ``threshold``.
        """
        self._before = self.save()
        self.last = {
            "epoch": epoch,
            "steps": steps,
            "loss": tally.mean_loss,
            "accuracy": tally.accuracy,
        }
        if self._improves(self.last):
            self.best, self._since = self.last, 0
        else:
            self._since += 1
        return self.verdict()

    def verdict(self) -> str | None:
        """Return why training should stop as things stand, None: go on."""
        patience = self._rule.patience
        if patience is None or self._since < patience or self.best is None:
            return None
        epochs = counted(self._since, "epoch")
        return (
            f"early stopping: validation {self._rule.metric} not better by more than "
            f"{self._rule.threshold:g} for {epochs}, since epoch {self.best['epoch']}"
        )

    def _improves(self, found: Mapping[str, Any]) -> bool:
        value = float(found[self._rule.metric])
        if self.best is None:
            return True
        best = float(self.best[self._rule.metric])
        gain = best - value if self._rule.metric == "loss" else value - best
        return gain > self._rule.threshold

    def save(self) -> dict[str, Any]:
        """Return all of it as JSON-able values, for `load`."""
        return {"best": self.best, "last": self.last, "since": self._since}

    def save_before_last(self) -> dict[str, Any]:
        """Return what `save` did before the last validation: who loads that judges it again."""
        return self._before

    def load(self, values: Mapping[str, Any]) -> None:
        """Take over what `save` saw."""
        self.best = dict(values["best"]) if values["best"] is not None else None
        self.last = dict(values["last"]) if values["last"] is not None else None
        self._since = int(values["since"])
        self._before = self.save()
