"""A model's forward pass: in float64 with numpy alone, and in float32 on an engine."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from kernels.interface import Engine
from nodes.models.layers import Tensor
from nodes.models.model import Model
from nodes.models.network import Activations, Parameters

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
        self._rows = model.rows_at_once(ROWS)

    def __call__(self, x: Floats) -> Doubles:
        """Compute the outputs of prepared rows."""
        found = np.empty((len(x), self._model.outputs))
        for start in range(0, len(x), self._rows):
            part = slice(start, start + self._rows)
            found[part] = self._some(x[part].astype(np.float64))
        return found

    def _some(self, x: Doubles) -> Doubles:
        for layer in self._model.layers:
            parameters = [self._part(tensor) for tensor in layer.tensors]
            x = layer.host(x.reshape(len(x), *layer.inputs), parameters)
        return x

    def _part(self, tensor: Tensor) -> Doubles:
        return self._weights[tensor.offset : tensor.offset + tensor.size].reshape(tensor.shape)


class EngineForward:
    """The forward pass on a device, some rows at a time; it belongs to the engine's thread."""

    def __init__(self, engine: Engine, model: Model, weights: Floats) -> None:
        self._engine = engine
        self._model = model
        self._rows = model.rows_at_once(ROWS)
        self._input = engine.empty((self._rows, model.inputs))
        self._activations = Activations(engine, model, self._rows, training=False)
        self._weights = Parameters(model, engine.empty((model.size,)))
        engine.upload(self._weights.flat, weights)
        engine.wait()

    def __call__(self, x: Floats) -> Doubles:
        """Compute the outputs of prepared rows."""
        found = np.empty((len(x), self._model.outputs), np.float32)
        for start in range(0, len(x), self._rows):
            part = slice(start, start + self._rows)
            self._some(x[part], found[part])
        return found.astype(np.float64)

    def _some(self, x: Floats, out: Floats) -> None:
        value = self._input.view(0, (len(x), self._model.inputs))
        self._engine.upload(value, x)
        self._engine.download(self._activations.forward(value, self._weights), out)
        self._engine.wait()
