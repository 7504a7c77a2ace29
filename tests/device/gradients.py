"""Check a twin's gradient by central differences in float64."""

from collections.abc import Callable

import numpy as np


def assert_gradient(
    loss: Callable[[], float], x: np.ndarray, gradient: np.ndarray, *, step: float = 1e-5
) -> None:
    """Compare with the differences of `loss` where each element of x, in place, moves a little."""
    assert x.dtype == gradient.dtype == np.float64
    differences = np.empty(x.shape)
    for index in np.ndindex(x.shape):
        kept = x[index]
        x[index] = kept + step
        above = loss()
        x[index] = kept - step
        below = loss()
        x[index] = kept
        differences[index] = (above - below) / (2 * step)
    scale = max(np.abs(differences).max(initial=0.0), 1e-3)
    assert np.abs(gradient - differences).max(initial=0.0) / scale < 1e-6
