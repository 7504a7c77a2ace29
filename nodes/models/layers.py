"""The kinds of layers: their shapes and parameters, and what they compute, on devices and in numpy.

Every layer maps x [rows, *inputs] to out [rows, *outputs]. On the way back it is given the gradient of
the loss by what it computed before its activation, and gives that of the layer below: its gradient
by x, times the derivative of the activation whose output x is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from kernels import reference
from kernels.interface import Array, Engine
from kernels.ops.pooling import Pooling, pool, pool_gradient, pool_twin
from kernels.windows import Window
from nodes.models.config import ActivationName

Doubles = npt.NDArray[np.float64]
Shape = tuple[int, ...]

Below = tuple[Array, ActivationName]
"""Where the gradient of the layer below goes, and that layer's activation."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One parameter's place in the flat vector; ``offset`` counts elements."""

    name: str
    offset: int
    shape: Shape

    @property
    def size(self) -> int:
        """How many elements it has."""
        return math.prod(self.shape)


class Layer(Protocol):
    """What a network is made of; see the module."""

    @property
    def inputs(self) -> Shape:
        """One example's shape as it takes it."""

    @property
    def outputs(self) -> Shape:
        """One example's shape as it gives it."""

    @property
    def activation(self) -> ActivationName:
        """What is applied last; identity where there is nothing."""

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Its parameters: weight and bias, or none."""

    @property
    def fans(self) -> tuple[int, int]:
        """How many inputs meet in one output, and outputs in one input; for the first weights."""

    def forward(self, engine: Engine, x: Array, parameters: Sequence[Array], out: Array) -> None:
        """Enqueue ``out`` from ``x``."""

    def backward(
        self,
        engine: Engine,
        x: Array,
        parameters: Sequence[Array],
        delta: Array,
        gradients: Sequence[Array],
        below: Below | None,
    ) -> None:
        """Enqueue the gradients by the parameters, and by the layer below where there is one."""

    def host(self, x: Doubles, parameters: Sequence[Doubles]) -> Doubles:
        """Compute the output in numpy."""


@dataclass(frozen=True, slots=True)
class Dense:
    """A dense layer: ``activation(x @ weight[inputs, units] + bias[units])``."""

    inputs: Shape
    units: int
    activation: ActivationName
    tensors: tuple[Tensor, ...]

    @property
    def outputs(self) -> Shape:
        """One example's output."""
        return (self.units,)

    @property
    def fans(self) -> tuple[int, int]:
        """Its inputs and units."""
        return math.prod(self.inputs), self.units

    def forward(self, engine: Engine, x: Array, parameters: Sequence[Array], out: Array) -> None:
        """Enqueue the product with bias and activation."""
        weight, bias = parameters
        engine.matmul(_flat(x), weight, out, bias=bias, activation=self.activation)

    def backward(
        self,
        engine: Engine,
        x: Array,
        parameters: Sequence[Array],
        delta: Array,
        gradients: Sequence[Array],
        below: Below | None,
    ) -> None:
        """Enqueue the products that are its gradients."""
        flat = _flat(x)
        engine.matmul(flat, delta, gradients[0], form="tn", column_sums=gradients[1])
        if below is not None:
            out, name = below
            engine.matmul(delta, parameters[0], _flat(out), form="nt", derivative=(name, flat))

    def host(self, x: Doubles, parameters: Sequence[Doubles]) -> Doubles:
        """Compute the output in numpy."""
        weight, bias = parameters
        out = np.empty((len(x), self.units))
        flat = x.reshape(len(x), -1)
        reference.matmul(flat, weight, out, bias=bias, activation=self.activation)
        return out


@dataclass(frozen=True, slots=True)
class Conv2d:
    """A convolution of planes [C,H,W] with ``weight[filters, C, *window]`` and ``bias[filters]``."""

    inputs: Shape
    outputs: Shape
    window: Window
    activation: ActivationName
    tensors: tuple[Tensor, ...]

    @property
    def fans(self) -> tuple[int, int]:
        """How many inputs one output sees, and how many outputs one input may reach."""
        return self.inputs[0] * self.window.taps, self.outputs[0] * self.window.taps

    def forward(self, engine: Engine, x: Array, parameters: Sequence[Array], out: Array) -> None:
        """Enqueue the convolution with bias and activation."""
        weight, bias = parameters
        engine.convolve(x, weight, out, self.window, bias=bias, activation=self.activation)

    def backward(
        self,
        engine: Engine,
        x: Array,
        parameters: Sequence[Array],
        delta: Array,
        gradients: Sequence[Array],
        below: Below | None,
    ) -> None:
        """Enqueue the convolutions that are its gradients."""
        weight, bias = gradients
        engine.convolve_weights(x, delta, weight, self.window, filter_sums=bias)
        if below is not None:
            out, name = below
            engine.convolve_input(delta, parameters[0], out, self.window, derivative=(name, x))

    def host(self, x: Doubles, parameters: Sequence[Doubles]) -> Doubles:
        """Compute the output in numpy."""
        weight, bias = parameters
        out = np.empty((len(x), *self.outputs))
        reference.convolve(x, weight, out, self.window, bias=bias, activation=self.activation)
        return out


@dataclass(frozen=True, slots=True)
class Pool2d:
    """The largest or the mean element of each window over planes [C,H,W]."""

    kind: Pooling
    inputs: Shape
    outputs: Shape
    window: Window

    @property
    def activation(self) -> ActivationName:
        """It has none."""
        return "identity"

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """It has none."""
        return ()

    @property
    def fans(self) -> tuple[int, int]:
        """It has no weights."""
        return 1, 1

    def forward(self, engine: Engine, x: Array, parameters: Sequence[Array], out: Array) -> None:
        """Enqueue the pooling."""
        pool(engine, self.kind, x, out, self.window)

    def backward(
        self,
        engine: Engine,
        x: Array,
        parameters: Sequence[Array],
        delta: Array,
        gradients: Sequence[Array],
        below: Below | None,
    ) -> None:
        """Enqueue the gradient by its input."""
        if below is not None:
            out, name = below
            pool_gradient(engine, self.kind, delta, x, out, self.window, derivative=name)

    def host(self, x: Doubles, parameters: Sequence[Doubles]) -> Doubles:
        """Compute the output in numpy."""
        out = np.empty((len(x), *self.outputs))
        pool_twin(self.kind, x, out, self.window)
        return out


def _flat(x: Array) -> Array:
    return x if len(x.shape) == 2 else x.view(0, (x.shape[0], math.prod(x.shape[1:])))
