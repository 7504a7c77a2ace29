"""One training step on one device: forward, loss, backward, with one wait for the host."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kernels.engine import Array, Engine
from nodes.errors import ModelError
from nodes.models import Model

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class StepResult:
    """What came of one minibatch.

    ``loss_sum`` is summed over the examples, ``correct`` counts those whose largest output is the
    label's (0 in a regression), ``finite`` says whether loss and gradient (in an evaluation: the
    loss) are free of NaN and infinity.
    """

    loss_sum: float
    correct: int
    examples: int
    finite: bool


class Learner:
    """Computes gradients of a model on an engine, into one flat vector like the cluster's table.

    It owns the device's buffers: weights, gradient, one minibatch and its activations. It belongs
    to the engine's thread. Memory on the device: twice the weights, and twice ``max_batch`` rows
    of every layer's output.

    Args:
        engine: where to compute.
        model: what to compute.
        max_batch: the most rows that a call may bring; fewer take the same kernels.
    """

    def __init__(self, engine: Engine, model: Model, max_batch: int) -> None:
        self._engine = engine
        self._model = model
        self._max_batch = max_batch
        self._weights = engine.empty((model.size,))
        self._gradient = engine.empty((model.size,))
        self._kernels = [
            self._weights.view(la.weight.offset, la.weight.shape) for la in model.layers
        ]
        self._biases = [self._weights.view(la.bias.offset, la.bias.shape) for la in model.layers]
        self._kernel_gradients = [
            self._gradient.view(la.weight.offset, la.weight.shape) for la in model.layers
        ]
        self._bias_gradients = [
            self._gradient.view(la.bias.offset, la.bias.shape) for la in model.layers
        ]
        self._classifies = model.loss == "cross_entropy"
        self._input = engine.empty((max_batch, model.inputs))
        if self._classifies:
            self._target = engine.empty((max_batch,), np.int32)
        else:
            self._target = engine.empty((max_batch, model.outputs))
        self._outputs = [engine.empty((max_batch, layer.units)) for layer in model.layers]
        self._deltas = [engine.empty((max_batch, layer.units)) for layer in model.layers]
        self._stats = engine.empty((2,))
        self._flag = engine.empty((1,), np.int32)
        self._host_stats: npt.NDArray[Any] = np.zeros(2, self._stats.dtype)
        self._host_flag = np.zeros(1, np.int32)
        self._loaded = False

    def __repr__(self) -> str:
        return f"<Learner of {self._model!r} on {self._engine.info.name}, {self._max_batch} rows>"

    def gradient(
        self, weights: Floats | None, x: Floats, y: npt.NDArray[Any], out: Floats
    ) -> StepResult:
        """Compute the gradient of the loss, summed over the examples, into ``out`` [size].

        Waits once for the device. ``out`` is valid on return.

        Args:
            weights: float32 [size], or None for those of the call before.
            x: float32 [rows, inputs], at most ``max_batch`` rows.
            y: int32 [rows] labels, or float32 [rows, targets].
            out: float32 [size].
        """
        rows = self._load(weights, x, y)
        self._forward(rows)
        deltas = self._loss(rows)
        self._backward(rows, deltas)
        self._engine.all_finite(self._gradient, self._flag)
        self._engine.download(self._gradient, out)
        self._engine.download(self._flag, self._host_flag)
        return self._finish(rows, gradient=True)

    def evaluate(self, weights: Floats | None, x: Floats, y: npt.NDArray[Any]) -> StepResult:
        """Compute loss and correct answers, forward only; arguments as in `gradient`."""
        rows = self._load(weights, x, y)
        self._forward(rows)
        self._loss(rows)
        return self._finish(rows, gradient=False)

    def _load(self, weights: Floats | None, x: Floats, y: npt.NDArray[Any]) -> int:
        rows = len(x)
        if not 0 < rows <= self._max_batch:
            raise ModelError(f"a minibatch of {rows} rows: must be 1 to {self._max_batch}")
        if weights is not None:
            self._engine.upload(self._weights, weights)
            self._loaded = True
        elif not self._loaded:
            raise ModelError("no weights on the device yet: the first call must bring them")
        self._engine.upload(_rows(self._input, rows), x)
        self._engine.upload(_rows(self._target, rows), y)
        return rows

    def _forward(self, rows: int) -> None:
        value = _rows(self._input, rows)
        for index, layer in enumerate(self._model.layers):
            output = _rows(self._outputs[index], rows)
            self._engine.matmul(
                value,
                self._kernels[index],
                output,
                bias=self._biases[index],
                activation=layer.activation,
            )
            value = output

    def _loss(self, rows: int) -> Array:
        """Compute the loss; return its gradient by the last layer's output, which is linear."""
        output, delta = _rows(self._outputs[-1], rows), _rows(self._deltas[-1], rows)
        target = _rows(self._target, rows)
        if self._classifies:
            self._engine.softmax_cross_entropy(output, target, delta, self._stats)
        else:
            self._engine.mean_squared_error(output, target, delta, self._stats)
        return delta

    def _backward(self, rows: int, delta: Array) -> None:
        layers = self._model.layers
        for index in range(len(layers) - 1, -1, -1):
            below = _rows(self._outputs[index - 1] if index else self._input, rows)
            self._engine.matmul(below, delta, self._kernel_gradients[index], form="tn")
            self._engine.column_sum(delta, self._bias_gradients[index])
            if index:
                next_delta = _rows(self._deltas[index - 1], rows)
                self._engine.matmul(
                    delta,
                    self._kernels[index],
                    next_delta,
                    form="nt",
                    derivative=(layers[index - 1].activation, below),
                )
                delta = next_delta

    def _finish(self, rows: int, *, gradient: bool) -> StepResult:
        self._engine.download(self._stats, self._host_stats)
        self._engine.wait()
        loss = float(self._host_stats[0])
        finite = bool(np.isfinite(loss)) and (not gradient or bool(self._host_flag[0]))
        correct = int(self._host_stats[1]) if self._classifies else 0
        return StepResult(loss_sum=loss, correct=correct, examples=rows, finite=finite)


def _rows(array: Array, rows: int) -> Array:
    return array.view(0, (rows, *array.shape[1:]))
