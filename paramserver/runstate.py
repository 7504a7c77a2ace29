"""What a run's state is made of; `paramserver.runtable` is what changes it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from paramserver.types import PeerId, Span


class Phase(Enum):
    """Where a run stands."""

    INITIALISE = "initialise"
    TRAIN = "train"
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
    """Examples lent to one incarnation: ``done`` of ``span`` is recorded."""

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


@dataclass(slots=True)
class Epoch:
    """An epoch under way in ssp or asp: what is lent up to ``lent``, and how much is done."""

    number: int
    lent: int = 0
    tally: Tally = field(default_factory=Tally)
