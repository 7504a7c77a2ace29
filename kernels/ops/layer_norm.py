"""Layer normalisation.

Source: Ba, Kiros and Hinton 2016, "Layer normalization".

Every sum's order depends on shapes alone. `moments` keeps mean and 1 / deviation for the way back.
"""

from __future__ import annotations

import numpy as np

from kernels.checks import check_floats, check_same
from kernels.errors import KernelError
from kernels.interface import Array, Engine
from kernels.operation import Operation

GRAIN = 4096
"""Elements that are worth a work-item."""

EPSILON = 1e-5
"""Added to a variance, so that no constant input divides by zero."""


def layer_norm(
    engine: Engine,
    x: Array,
    gain: Array,
    bias: Array,
    out: Array,
    moments: Array,
    *,
    epsilon: float = EPSILON,
) -> None:
    """Normalise each row of x[B,C]: `out = (x - mean) / sqrt(variance + epsilon) * gain + bias`.

    `gain[C]`, `bias[C]`; `moments[2,B]` is written. `out` may be x, unless the gradient is wanted.
    """
    rows, columns = _check_rows("layer_norm", x, gain, moments)
    check_same("layer_norm", (bias, (columns,)), (out, x.shape))
    check_floats("layer_norm", bias, out)
    numbers = (columns, epsilon)
    grain = max(1, GRAIN // columns)
    engine.run(LAYER_NORM, (x, gain, bias, out, moments), numbers, items=rows, grain=grain)


def layer_norm_gradient(
    engine: Engine,
    delta: Array,
    x: Array,
    gain: Array,
    moments: Array,
    out: Array,
    by_gain: Array,
    by_bias: Array,
) -> None:
    """Compute the gradients by x[B,C] into `out`, which may be delta, and by gain and bias.

    `moments` is as `layer_norm` left it.
    """
    what = "layer_norm_gradient"
    rows, columns = _check_rows(what, x, gain, moments)
    check_same(what, (delta, x.shape), (out, x.shape))
    check_same(what, (by_gain, (columns,)), (by_bias, (columns,)))
    check_floats(what, delta, out, by_gain, by_bias)
    arrays = (delta, x, moments, by_gain, by_bias)
    across = max(16, GRAIN // rows)
    engine.run(LAYER_NORM_PRODUCTS, arrays, (rows,), items=columns, grain=across)
    grain = max(1, GRAIN // columns)
    back = (delta, x, gain, moments, out)
    engine.run(LAYER_NORM_BACK, back, (columns,), items=rows, grain=grain)


def _check_rows(what: str, x: Array, gain: Array, moments: Array) -> tuple[int, int]:
    """Return (B, C) of x[B,C]."""
    if len(x.shape) != 2 or 0 in x.shape:
        raise KernelError(f"{what} takes a matrix with rows, got {list(x.shape)}")
    rows, columns = x.shape
    check_same(what, (gain, (columns,)), (moments, (2, rows)))
    check_floats(what, x, gain, moments)
    return rows, columns


def layer_norm_twin(
    x: np.ndarray,
    gain: np.ndarray,
    bias: np.ndarray,
    out: np.ndarray,
    moments: np.ndarray,
    columns: int,
    epsilon: float,
) -> None:
    """Normalise rows."""
    moments[0] = x.mean(axis=1)
    centred = x - moments[0, :, None]
    moments[1] = 1 / np.sqrt(np.square(centred).mean(axis=1) + x.dtype.type(epsilon))
    np.multiply(centred * moments[1, :, None], gain, out=out)
    out += bias


def layer_norm_back_twin(
    delta: np.ndarray,
    x: np.ndarray,
    gain: np.ndarray,
    moments: np.ndarray,
    out: np.ndarray,
    columns: int,
) -> None:
    """Compute the gradient by rows."""
    mean, inverse = moments[..., None]
    given, normal = delta * gain, (x - mean) * inverse
    drift = given.mean(axis=1, keepdims=True)
    slope = (given * normal).mean(axis=1, keepdims=True)
    np.multiply(inverse, given - drift - normal * slope, out=out)


def layer_norm_products_twin(
    delta: np.ndarray,
    x: np.ndarray,
    moments: np.ndarray,
    by_gain: np.ndarray,
    by_bias: np.ndarray,
    rows: int,
) -> None:
    """Compute the gradients by gain and bias, from the first row to the last."""
    mean, inverse = moments[..., None]
    np.add.reduce(delta * ((x - mean) * inverse), axis=0, out=by_gain)
    np.add.reduce(delta, axis=0, out=by_bias)


_SOURCE = "normalise.cl"
LAYER_NORM = Operation("layer_norm", _SOURCE, 5, (np.int32, np.float32), layer_norm_twin)
LAYER_NORM_BACK = Operation("layer_norm_back", _SOURCE, 5, (np.int32,), layer_norm_back_twin)
LAYER_NORM_PRODUCTS = Operation(
    "layer_norm_products", _SOURCE, 5, (np.int32,), layer_norm_products_twin
)
