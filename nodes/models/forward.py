"""A model's forward pass: in float64 with numpy alone, and in float32 on an engine."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from kernels import reference
from kernels.interface import Engine
from nodes.models.model import Model, Tensor

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

Forward = Callable[[Floats], Doubles]
"""Maps prepared rows [rows, inputs] to the last layer's outputs [rows, outputs]."""

ROWS = 1024


class HostForward:
    """The forward pass in numpy; it keeps no rows between calls, so that threads may share it.

    It computes in float64, because float32 sums depend on the BLAS and on how many rows come at
    once: by some 1e-6 in an output, and by that times its size, 2e-5 and more, in a probability.
    """

    def __init__(self, model: Model, weights: Floats) -> None:
        self._model = model
        self._weights = weights.astype(np.float64)

    def __call__(self, x: Floats) -> Doubles:
        """Compute the outputs of prepared rows."""
        found = np.empty((len(x), self._model.outputs))
        for start in range(0, len(x), ROWS):
            found[start : start + ROWS] = self._some(x[start : start + ROWS].astype(np.float64))
        return found

    def _some(self, x: Doubles) -> Doubles:
        for layer in self._model.layers:
            out = np.empty((len(x), layer.units))
            weight, bias = self._part(layer.weight), self._part(layer.bias)
            reference.matmul(x, weight, out, bias=bias, activation=layer.activation)
            x = out
        return x

    def _part(self, tensor: Tensor) -> Doubles:
        return self._weights[tensor.offset : tensor.offset + tensor.size].reshape(tensor.shape)


class EngineForward:
    """The forward pass on a device, ``ROWS`` rows at a time; it belongs to the engine's thread."""

    def __init__(self, engine: Engine, model: Model, weights: Floats) -> None:
        self._engine = engine
        self._model = model
        self._input = engine.empty((ROWS, model.inputs))
        self._outputs = [engine.empty((ROWS, layer.units)) for layer in model.layers]
        self._weights = engine.empty((model.size,))
        engine.upload(self._weights, weights)
        engine.wait()

    def __call__(self, x: Floats) -> Doubles:
        """Compute the outputs of prepared rows."""
        found = np.empty((len(x), self._model.outputs), np.float32)
        for start in range(0, len(x), ROWS):
            self._some(x[start : start + ROWS], found[start : start + ROWS])
        return found.astype(np.float64)

    def _some(self, x: Floats, out: Floats) -> None:
        rows = len(x)
        value = self._input.view(0, (rows, self._model.inputs))
        self._engine.upload(value, x)
        for layer, buffer in zip(self._model.layers, self._outputs, strict=True):
            output = buffer.view(0, (rows, layer.units))
            self._engine.matmul(
                value,
                self._weights.view(layer.weight.offset, layer.weight.shape),
                output,
                bias=self._weights.view(layer.bias.offset, layer.bias.shape),
                activation=layer.activation,
            )
            value = output
        self._engine.download(value, out)
        self._engine.wait()
