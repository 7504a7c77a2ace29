"""What a worker may compute with in a test: slowed, watched or poisoned."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nodes.training.compute import Compute, Floats
from nodes.training.learner import StepResult
from paramserver.evaluation import Split


class Wrapped:
    """A worker's compute with something done before each gradient."""

    def __init__(self, inner: Compute, before: Callable[[], None], after: Callable[[], None]):
        self._inner = inner
        self._before = before
        self._after = after

    def initial_weights(self, seed: int) -> Floats:
        return self._inner.initial_weights(seed)

    def evaluate(
        self, weights: Floats | None, start: int, stop: int, split: Split = "test"
    ) -> StepResult:
        return self._inner.evaluate(weights, start, stop, split)

    def gradient(self, weights: Floats | None, *where: Any) -> StepResult:
        self._before()
        result = self._inner.gradient(weights, *where)
        self._after()
        return result

    def local(self, weights: Floats | None, *how: Any) -> StepResult:
        self._before()
        result = self._inner.local(weights, *how)
        self._after()
        return result


class Poisoned(Wrapped):
    """Gives a NaN, and says so or not."""

    def __init__(self, inner: Compute, honest: bool) -> None:
        super().__init__(inner, lambda: None, lambda: None)
        self._honest = honest

    def gradient(self, weights: Floats | None, *where: Any) -> StepResult:
        return self._poison(super().gradient(weights, *where), where[-1])

    def local(self, weights: Floats | None, *how: Any) -> StepResult:
        return self._poison(super().local(weights, *how), how[-1])

    def _poison(self, result: StepResult, out: Floats) -> StepResult:
        out[3] = np.nan
        return StepResult(result.loss_sum, result.correct, result.examples, not self._honest)
