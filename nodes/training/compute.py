"""What a worker computes for one run: on its device, with its data. One thread owns it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from kernels.engine import Engine
from nodes.data import Dataset, permutation
from nodes.models import Model
from nodes.training.learner import Clip, Learner, Local, StepResult
from paramserver.evaluation import Split
from paramserver.types import Span

Floats = npt.NDArray[np.float32]

PERMUTATIONS_KEPT = 3
EVALUATE_ROWS = 1024
HELD_BYTES = 16 << 20
"""Of minibatches' inputs kept on the host for local steps that the device has not taken yet."""
STEPS_AHEAD = 64
"""Local steps that are enqueued before the host waits for the device."""


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

    def local(
        self,
        weights: Floats | None,
        epoch: int,
        pieces: Sequence[Span],
        rate: float,
        out: Floats,
    ) -> StepResult:
        """Train from ``weights`` by one local step on each piece of the epoch's permutation.

        ``weights`` None means those of the call before, before its local steps. What is to be pushed
        in the run's mode is written to ``out``; the result sums over the steps.
        """

    def evaluate(
        self, weights: Floats | None, start: int, stop: int, split: Split = "test"
    ) -> StepResult:
        """Compute loss and correct answers over examples ``[start, stop)`` of a split."""


class ModelCompute:
    """Computes with one of this package's models on one of its datasets."""

    def __init__(
        self,
        engine: Engine,
        model: Model,
        dataset: Dataset,
        *,
        seed: int,
        largest: int,
        clip: Clip | None = None,
        local: Local | None = None,
    ) -> None:
        self._model = model
        self._dataset = dataset
        self._seed = seed
        held = max(len(dataset.test_x), len(dataset.validation_x), 1)
        self._rows = max(largest, model.rows_at_once(min(EVALUATE_ROWS, held)))
        self._learner = Learner(engine, model, self._rows, clip=clip, local=local)
        self._permutations: OrderedDict[int, npt.NDArray[np.int64]] = OrderedDict()
        wanted = min(largest * local.period, HELD_BYTES // (4 * dataset.features)) if local else 0
        self._x, self._y = dataset.buffers(max(self._rows, wanted))

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
            return self._nothing(weights, out)
        order = self._permutation(epoch)
        rows = stop - start
        if rows > len(self._x):
            self._x, self._y = self._dataset.buffers(rows)
        self._dataset.batch(order[start:stop], self._x[:rows], self._y[:rows])
        return self._learner.gradient(weights, self._x[:rows], self._y[:rows], out)

    def local(
        self,
        weights: Floats | None,
        epoch: int,
        pieces: Sequence[Span],
        rate: float,
        out: Floats,
    ) -> StepResult:
        """Train from ``weights`` by one local step on each piece of the epoch's permutation.

        Pieces without a position are skipped; nothing but such gives zeros, of no weight.
        """
        pieces = [piece for piece in pieces if len(piece)]
        if not pieces:
            return self._nothing(weights, out)
        return self._learner.local_steps(weights, self._minibatches(epoch, pieces), rate, out)

    def _nothing(self, weights: Floats | None, out: Floats) -> StepResult:
        """Write what no example gives; the weights are for the calls that follow."""
        if weights is not None:
            self._learner.load(weights)
        out[:] = 0
        return StepResult(loss_sum=0.0, correct=0, examples=0, finite=True)

    def _minibatches(
        self, epoch: int, pieces: Sequence[Span]
    ) -> Iterator[tuple[Floats, npt.NDArray[Any]]]:
        """Gather one piece after the other, beside those that the device may still read."""
        order = self._permutation(epoch)
        used = ahead = 0
        for piece in pieces:
            rows = len(piece)
            if used + rows > len(self._x) or ahead == STEPS_AHEAD:
                self._learner.wait()
                used = ahead = 0
            if rows > len(self._x):
                self._x, self._y = self._dataset.buffers(rows)
            x, y = self._x[used : used + rows], self._y[used : used + rows]
            self._dataset.batch(order[piece.start : piece.stop], x, y)
            used += rows
            ahead += 1
            yield x, y

    def evaluate(
        self, weights: Floats | None, start: int, stop: int, split: Split = "test"
    ) -> StepResult:
        """Compute loss and correct answers over examples ``[start, stop)`` of a split."""
        batch = self._dataset.test_batch if split == "test" else self._dataset.validation_batch
        loss, correct, finite = 0.0, 0, True
        for first in range(start, stop, self._rows):
            last = min(first + self._rows, stop)
            rows = last - first
            batch(first, last, self._x[:rows], self._y[:rows])
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
