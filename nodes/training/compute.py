"""What a worker computes for one run: on its device, with its data. One thread owns it."""

from __future__ import annotations

from collections import OrderedDict
from typing import Protocol

import numpy as np
import numpy.typing as npt

from kernels.engine import Engine
from nodes.data import Dataset, permutation
from nodes.models import Model
from nodes.training.learner import Learner, StepResult

Floats = npt.NDArray[np.float32]

PERMUTATIONS_KEPT = 3
EVALUATE_ROWS = 1024


class Compute(Protocol):
    """The numerical side of a worker. Every call blocks; all come from one thread."""

    def initial_weights(self, seed: int) -> Floats:
        """Make the model's first weights."""

    def gradient(
        self, weights: Floats | None, epoch: int, start: int, stop: int, out: Floats
    ) -> StepResult:
        """Compute the gradient summed over positions ``[start, stop)`` of the epoch's permutation.

        ``weights`` None means those of the call before. The gradient is written to ``out``.
        """

    def evaluate(self, weights: Floats | None, start: int, stop: int) -> StepResult:
        """Compute loss and correct answers over test examples ``[start, stop)``."""


class ModelCompute:
    """Computes with one of this package's models on one of its datasets."""

    def __init__(
        self, engine: Engine, model: Model, dataset: Dataset, *, seed: int, largest: int
    ) -> None:
        self._model = model
        self._dataset = dataset
        self._seed = seed
        self._rows = max(largest, min(EVALUATE_ROWS, max(len(dataset.test_x), 1)))
        self._learner = Learner(engine, model, self._rows)
        self._permutations: OrderedDict[int, npt.NDArray[np.int64]] = OrderedDict()
        self._x, self._y = dataset.buffers(self._rows)

    def __repr__(self) -> str:
        return f"<ModelCompute of {self._model!r} on {self._dataset!r}>"

    def initial_weights(self, seed: int) -> Floats:
        """Make the model's first weights from the run's seed."""
        return self._model.initial_weights(seed)

    def gradient(
        self, weights: Floats | None, epoch: int, start: int, stop: int, out: Floats
    ) -> StepResult:
        """Compute the gradient summed over positions ``[start, stop)`` of the epoch's permutation.

        No position at all gives zeros: a bsp clock may have fewer examples than parts.
        """
        if stop <= start:
            out[:] = 0
            return StepResult(loss_sum=0.0, correct=0, examples=0, finite=True)
        order = self._permutation(epoch)
        rows = stop - start
        self._dataset.batch(order[start:stop], self._x[:rows], self._y[:rows])
        return self._learner.gradient(weights, self._x[:rows], self._y[:rows], out)

    def evaluate(self, weights: Floats | None, start: int, stop: int) -> StepResult:
        """Compute loss and correct answers over test examples ``[start, stop)``."""
        loss, correct, finite = 0.0, 0, True
        for first in range(start, stop, self._rows):
            last = min(first + self._rows, stop)
            rows = last - first
            self._dataset.test_batch(first, last, self._x[:rows], self._y[:rows])
            result = self._learner.evaluate(weights, self._x[:rows], self._y[:rows])
            weights = None
            loss += result.loss_sum
            correct += result.correct
            finite = finite and result.finite
        return StepResult(loss_sum=loss, correct=correct, examples=stop - start, finite=finite)

    def _permutation(self, epoch: int) -> npt.NDArray[np.int64]:
        order = self._permutations.get(epoch)
        if order is None:
            order = permutation(self._seed, epoch, len(self._dataset.train_x))
            self._permutations[epoch] = order
            if len(self._permutations) > PERMUTATIONS_KEPT:
                self._permutations.popitem(last=False)
        return order
