"""What is counted while a run trains: steps, examples, losses, staleness and time. No I/O.

Times are seconds of a monotonic clock given by the caller as ``now``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from paramserver.clocks import Histogram
from paramserver.runstate import EpochEnd, Tally

RECENT_EXAMPLES = 4096
EPOCH_ENDS_KEPT = 64


class Figures:
    """A run's counts, from its first step to its end.

    ``pushes`` counts those applied, duplicate and refused, ``versions`` sums the updates that weights
    lay behind and the pushes that told of it. ``recent`` is over the last few thousand examples.
    """

    def __init__(self, now: float) -> None:
        self.steps = 0
        self.examples = 0
        self.repeated_examples = 0
        self.epochs_done = 0
        self.last_epoch = Tally()
        self.epoch_ends: deque[EpochEnd] = deque(maxlen=EPOCH_ENDS_KEPT)
        self.recent = Tally()
        self.test = Tally()
        self.staleness = Histogram()
        self.versions = [0, 0]
        self.pushes = [0, 0, 0]
        self.started: float | None = None
        self.ended: float | None = None
        self.longest_pause = 0.0
        self._last_step = now

    def __repr__(self) -> str:
        return f"<Figures: {self.steps} steps, {self.examples} examples>"

    def start(self, now: float, *, spent: float = 0.0) -> None:
        """Begin to count time, after ``spent`` seconds of training in lives before."""
        self.started, self._last_step = now - spent, now

    def leave_out(self, since: float, now: float) -> None:
        """Count the time ``since`` a moment as none of training's."""
        if self.started is not None:
            self.started += now - since
        self._last_step = now

    def seconds(self, now: float) -> float:
        """Return the seconds spent in training so far."""
        if self.started is None:
            return 0.0
        return (self.ended if self.ended is not None else now) - self.started

    def count_told(self, pushes: Sequence[int], versions: Sequence[int], repeated: int) -> None:
        """Add what a worker's report tells."""
        for index, count in enumerate(pushes):
            self.pushes[index] += count
        for index, count in enumerate(versions):
            self.versions[index] += count
        self.repeated_examples += repeated

    def count_step(self, now: float) -> None:
        """Count an update of the weights."""
        self.steps += 1
        self.longest_pause = max(self.longest_pause, now - self._last_step)
        self._last_step = now

    def count_recent(self, examples: int, loss: float, correct: int) -> None:
        """Count a result among the latest."""
        if self.recent.examples >= RECENT_EXAMPLES:
            self.recent = Tally()
        self.recent.add(examples, loss, correct)

    def count_epoch(self, epoch: Tally, rate: float, now: float) -> None:
        """Count an epoch that is done; ``rate`` is the next update's."""
        self.epochs_done += 1
        self.last_epoch = epoch
        self.epoch_ends.append(
            EpochEnd(
                self.epochs_done,
                self.steps,
                self.examples,
                epoch.mean_loss,
                epoch.accuracy,
                rate,
                self.seconds(now),
            )
        )
