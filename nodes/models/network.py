"""A model's layers on a device: parameters as views of a flat vector, buffers of a minibatch."""

from __future__ import annotations

import math

from kernels.interface import Array, Engine
from nodes.models.model import Model
from nodes.models.plan import lay_out, of_layers


class Parameters:
    """A flat vector [size] on the device like the cluster's table, and each layer's views of it."""

    def __init__(self, model: Model, flat: Array) -> None:
        self.flat = flat
        self.layers = [
            [self.flat.view(tensor.offset, tensor.shape) for tensor in layer.tensors]
            for layer in model.layers
        ]


class Activations:
    """Every layer's output for a minibatch, and on the way back the gradients by them.

    They lie in one array by a plan: what is not needed at the same time shares its memory.

    Args:
        engine: where to compute.
        model: what to compute.
        rows: the most rows of a minibatch.
        training: whether the way back follows.
    """

    def __init__(self, engine: Engine, model: Model, rows: int, *, training: bool) -> None:
        self._engine = engine
        self._model = model
        sizes = [rows * math.prod(layer.outputs) for layer in model.layers]
        offsets, total = lay_out(of_layers(sizes, training=training))
        memory = engine.empty((total,))
        parts = [
            memory.view(offset, (size,)) for offset, size in zip(offsets, sizes * 2, strict=False)
        ]
        self._outputs, self._deltas = parts[: len(sizes)], parts[len(sizes) :]

    def forward(self, x: Array, parameters: Parameters) -> Array:
        """Enqueue the way forward of x [rows, inputs]; return the last layer's output."""
        rows = x.shape[0]
        for index, layer in enumerate(self._model.layers):
            out = self._outputs[index].view(0, (rows, *layer.outputs))
            seen = x.view(0, (rows, *layer.inputs))
            layer.forward(self._engine, seen, parameters.layers[index], out)
            x = out
        return x

    def delta(self, rows: int) -> Array:
        """Return where the loss's gradient by the last layer's output goes: [rows, outputs]."""
        return self._deltas[-1].view(0, (rows, self._model.outputs))

    def backward(self, x: Array, parameters: Parameters, gradients: Parameters) -> None:
        """Enqueue the way back, after the way forward of the same x and the loss."""
        rows, layers = x.shape[0], self._model.layers
        for index in range(len(layers) - 1, -1, -1):
            layer = layers[index]
            seen = (self._outputs[index - 1] if index else x).view(0, (rows, *layer.inputs))
            delta = self._deltas[index].view(0, (rows, *layer.outputs))
            below = None
            if index:
                to = self._deltas[index - 1].view(0, (rows, *layer.inputs))
                below = to, layers[index - 1].activation
            mine, by = parameters.layers[index], gradients.layers[index]
            layer.backward(self._engine, seen, mine, delta, by, below)
