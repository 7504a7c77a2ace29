"""The activations that products fuse: one table for the numpy twins and the kernels.

Derivatives are expressed through the activation's output y, so that backward needs no input kept.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from kernels.errors import KernelError


@dataclass(frozen=True)
class Activation:
    """One activation: its code in the kernels, and its numpy twins, which work in place."""

    name: str
    code: int
    """The number by which the kernels know it (ACTIVATION_<NAME> in the sources)."""
    apply: Callable[[np.ndarray], None]
    """Replace each x by f(x)."""
    derive: Callable[[np.ndarray, np.ndarray], None]
    """Multiply `delta` by f'(x), given y = f(x)."""


def _identity(x: np.ndarray) -> None:
    return None


def _derive_identity(delta: np.ndarray, y: np.ndarray) -> None:
    return None


def _relu(x: np.ndarray) -> None:
    np.maximum(x, 0, out=x)


def _derive_relu(delta: np.ndarray, y: np.ndarray) -> None:
    np.copyto(delta, 0, where=y <= 0)


def _tanh(x: np.ndarray) -> None:
    np.tanh(x, out=x)


def _derive_tanh(delta: np.ndarray, y: np.ndarray) -> None:
    delta *= 1 - y * y


def _sigmoid(x: np.ndarray) -> None:
    # 1/(1+exp(-x)) overflows for very negative x; tanh never does, and this is the same function.
    x *= 0.5
    np.tanh(x, out=x)
    x += 1
    x *= 0.5


def _derive_sigmoid(delta: np.ndarray, y: np.ndarray) -> None:
    delta *= y * (1 - y)


LEAK = 0.01
"""The slope of `leaky_relu` below zero (Maas et al. 2013, "Rectifier nonlinearities")."""


def _leaky_relu(x: np.ndarray) -> None:
    np.multiply(x, LEAK, out=x, where=x < 0)


def _derive_leaky_relu(delta: np.ndarray, y: np.ndarray) -> None:
    np.multiply(delta, LEAK, out=delta, where=y < 0)


def _elu(x: np.ndarray) -> None:
    np.expm1(x, out=x, where=x < 0)


def _derive_elu(delta: np.ndarray, y: np.ndarray) -> None:
    # exp(x) = y + 1 below zero, with alpha 1 (Clevert et al. 2015).
    np.multiply(delta, y + 1, out=delta, where=y < 0)


def _softplus(x: np.ndarray) -> None:
    rest = np.log1p(np.exp(-np.abs(x)))
    np.copyto(x, 0, where=x < 0)
    x += rest


def _derive_softplus(delta: np.ndarray, y: np.ndarray) -> None:
    delta *= -np.expm1(-y)


def _hardtanh(x: np.ndarray) -> None:
    np.clip(x, -1, 1, out=x)


def _derive_hardtanh(delta: np.ndarray, y: np.ndarray) -> None:
    np.copyto(delta, 0, where=(y <= -1) | (y >= 1))


ACTIVATIONS = {
    entry.name: entry
    for entry in (
        Activation("identity", 0, _identity, _derive_identity),
        Activation("relu", 1, _relu, _derive_relu),
        Activation("tanh", 2, _tanh, _derive_tanh),
        Activation("sigmoid", 3, _sigmoid, _derive_sigmoid),
        Activation("leaky_relu", 4, _leaky_relu, _derive_leaky_relu),
        Activation("elu", 5, _elu, _derive_elu),
        Activation("softplus", 6, _softplus, _derive_softplus),
        Activation("hardtanh", 7, _hardtanh, _derive_hardtanh),
    )
}

BY_CODE = {entry.code: entry for entry in ACTIVATIONS.values()}


def activation(name: str) -> Activation:
    """Return the activation of that name; raise KernelError with the known names otherwise."""
    try:
        return ACTIVATIONS[name]
    except KeyError:
        raise KernelError(
            f"unknown activation {name!r}: use one of {', '.join(ACTIVATIONS)}"
        ) from None
