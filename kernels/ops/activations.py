"""Activations by themselves, for what no product precedes; products fuse them (`Engine.matmul`).

All take arrays of any one size, and `out` may be an input.
"""

from __future__ import annotations

import math

import numpy as np

from kernels.activations import BY_CODE
from kernels.activations import activation as find_activation
from kernels.checks import check_whole
from kernels.interface import Array, Engine
from kernels.operation import Operation

GRAIN = 4096
"""Elements that are worth a work-item."""


def activate(engine: Engine, name: str, x: Array, out: Array) -> None:
    """Compute `out = f(x)` by an activation's name."""
    size = check_whole("activate", x, out)
    engine.run(ACTIVATE, (x, out), (find_activation(name).code,), items=size, grain=GRAIN)


def activate_gradient(engine: Engine, name: str, delta: Array, y: Array, out: Array) -> None:
    """Compute the gradient by x, `out = delta * f'(x)`, from the activation's output y."""
    size = check_whole("activate_gradient", delta, y, out)
    code = find_activation(name).code
    engine.run(ACTIVATE_BACK, (delta, y, out), (code,), items=size, grain=GRAIN)


def gelu(engine: Engine, x: Array, out: Array) -> None:
    """Compute `out = x P(X <= x)` of a standard normal X.

    Source: Hendrycks and Gimpel 2016, "Gaussian error linear units", in the exact form, by erf.
    """
    size = check_whole("gelu", x, out)
    engine.run(GELU, (x, out), items=size, grain=GRAIN)


def gelu_gradient(engine: Engine, delta: Array, x: Array, out: Array) -> None:
    """Compute the gradient by x. It needs x itself, since gelu takes a value below zero twice."""
    size = check_whole("gelu_gradient", delta, x, out)
    engine.run(GELU_BACK, (delta, x, out), items=size, grain=GRAIN)


def activate_twin(x: np.ndarray, out: np.ndarray, code: int) -> None:
    """Apply an activation."""
    np.copyto(out.reshape(-1), x.reshape(-1))
    BY_CODE[code].apply(out)


def activate_back_twin(delta: np.ndarray, y: np.ndarray, out: np.ndarray, code: int) -> None:
    """Multiply by an activation's derivative."""
    given = delta.reshape(-1).copy()
    BY_CODE[code].derive(given, y.reshape(-1))
    out.reshape(-1)[...] = given


_erfc = np.frompyfunc(math.erfc, 1, 1)
"""numpy itself has none."""


def _mass(x: np.ndarray) -> np.ndarray:
    """Return a standard normal's mass below x."""
    return 0.5 * np.asarray(_erfc(-x * math.sqrt(0.5)), x.dtype)


def gelu_twin(x: np.ndarray, out: np.ndarray) -> None:
    """Multiply by the normal distribution's mass below."""
    flat = x.reshape(-1)
    np.multiply(flat, _mass(flat), out=out.reshape(-1))


def gelu_back_twin(delta: np.ndarray, x: np.ndarray, out: np.ndarray) -> None:
    """Multiply by gelu's derivative: the mass below, and x times the density."""
    flat = x.reshape(-1)
    with np.errstate(over="ignore"):
        density = np.exp(-0.5 * flat * flat) * (0.5 / math.pi) ** 0.5
    np.multiply(delta.reshape(-1), _mass(flat) + flat * density, out=out.reshape(-1))


ACTIVATE = Operation("activate", "activations.cl", 2, (np.int32,), activate_twin)
ACTIVATE_BACK = Operation("activate_back", "activations.cl", 3, (np.int32,), activate_back_twin)
GELU = Operation("gelu", "activations.cl", 2, (), gelu_twin)
GELU_BACK = Operation("gelu_back", "activations.cl", 3, (), gelu_back_twin)
