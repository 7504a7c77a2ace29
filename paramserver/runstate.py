"""What a run's state is made of; `paramserver.runtable` is what changes it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from paramserver.types import PeerId, Span


class Phase(Enum):
    """Where a run stands."""

    INITIALISE = "initialise"
    TRAIN = "train"
    VALIDATE = "validate"
    EVALUATE = "evaluate"
    FINISHED = "finished"


@dataclass(slots=True)
class Tally:
    """Sums over examples."""

    examples: int = 0
    loss: float = 0.0
    correct: int = 0

    def add(self, examples: int, loss: float, correct: int) -> None:
        """Add one result."""
        self.examples += examples
        self.loss += loss
        self.correct += correct

    @property
    def mean_loss(self) -> float | None:
        """Loss per example, None where there is none."""
        return self.loss / self.examples if self.examples else None

    @property
    def accuracy(self) -> float | None:
        """Share of examples classified right, None where there is none."""
        return self.correct / self.examples if self.examples else None


@dataclass(slots=True)
class Lease:
    """Examples lent to one incarnation: ``done`` of ``span`` is recorded.

    To ``evaluate``, ``epoch`` is the number of the pass.
    """

    number: int
    epoch: int
    span: Span
    done: int
    evaluate: bool = False


@dataclass(slots=True)
class Worker:
    """An active worker as the run table sees it."""

    id: PeerId
    device: str
    joined: float
    heard: float
    cut: float | None = None
    reports: int = 0
    clock: int = 0
    pushes: int = 0
    examples: int = 0
    lease: Lease | None = None
    makes_weights: bool = False
    kind: str = ""
    """What its device has in common with those that compute the same bits."""


@dataclass(slots=True)
class Epoch:
    """An epoch under way in ssp or asp: what is lent up to ``lent``, and how much is done."""

    number: int
    lent: int = 0
    tally: Tally = field(default_factory=Tally)


class EpochEnd(NamedTuple):
    """Where a run stood when an epoch was done: loss and accuracy are that epoch's in training.

    ``rate`` is the next update's, ``seconds`` the time spent in training so far.
    """

    epoch: int
    steps: int
    examples: int
    loss: float | None
    accuracy: float | None
    rate: float
    seconds: float


@dataclass(slots=True)
class Checkpoints:
    """What is known of a run's checkpoints: ``number`` counts those asked for and made."""

    asked: int = 0
    number: int = 0
    folder: str | None = None
    error: str | None = None

    def ask(self) -> int:
        """Note that somebody wants one; return the number it will have at least."""
        self.asked = self.number + 1
        return self.asked

    def note(self, number: int, folder: str | None, error: str | None) -> None:
        """Note one that was made, or why it was not."""
        self.number, self.error = number, error
        self.folder = folder if folder is not None else self.folder
