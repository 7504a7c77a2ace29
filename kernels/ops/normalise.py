"""Layer normalisation and batch normalisation.

Sources: Ba, Kiros and Hinton 2016, "Layer normalization"; Ioffe and Szegedy 2015, "Batch
normalization: accelerating deep network training by reducing internal covariate shift".

Every sum's order depends on shapes alone. `moments` keeps mean and 1 / deviation for the way back.
"""

from __future__ import annotations

import math

import numpy as np

from kernels.checks import check_same, check_type
from kernels.errors import KernelError
from kernels.interface import Array, Engine
from kernels.operation import Operation
from kernels.ops.reductions import column_sum

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
    _check_floats("layer_norm", bias, out)
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
    _check_floats(what, delta, out, by_gain, by_bias)
    arrays = (delta, x, moments, by_gain, by_bias)
    across = max(16, GRAIN // rows)
    engine.run(LAYER_NORM_PRODUCTS, arrays, (rows,), items=columns, grain=across)
    grain = max(1, GRAIN // columns)
    back = (delta, x, gain, moments, out)
    engine.run(LAYER_NORM_BACK, back, (columns,), items=rows, grain=grain)


def batch_workspace(engine: Engine, shape: tuple[int, ...]) -> Array:
    """Return an array for the sums over an input of such a shape, [B,C] or [B,C,H,W]."""
    return engine.empty((2, *shape[:2]))


def batch_norm(
    engine: Engine,
    x: Array,
    gain: Array,
    bias: Array,
    running: Array,
    out: Array,
    moments: Array,
    sums: Array,
    *,
    momentum: float = 0.1,
    epsilon: float = EPSILON,
) -> None:
    """Normalise each channel of x, [B,C] or [B,C,H,W], by its own mean and variance: for training.

    `gain[C]`, `bias[C]`; `moments[2,C]` is written; `sums` is from `batch_workspace`. `running[2,C]`,
    the mean and the unbiased variance, moves by `momentum` to those of x; it begins as zeros and
    ones. `out` may be x, unless the gradient is wanted.
    """
    what = "batch_norm"
    batch, channels, size = _check_planes(what, x, gain, moments, sums)
    check_same(what, (bias, (channels,)), (running, (2, channels)), (out, x.shape))
    _check_floats(what, bias, running, out)
    planes, count = batch * channels, batch * size
    grain = max(1, GRAIN // size)
    added = x
    if size > 1:
        added = sums
        engine.run(PLANE_SUMS, (x, sums), (size,), items=planes, grain=grain)
    across = max(1, GRAIN // batch)
    engine.run(CHANNEL_MEANS, (added, moments), (batch, count), items=channels, grain=across)
    geometry = (channels, size)
    engine.run(PLANE_SQUARES, (x, moments, sums), geometry, items=planes, grain=grain)
    numbers = (batch, count, momentum, epsilon)
    arrays = (sums, moments, running)
    engine.run(CHANNEL_DEVIATIONS, arrays, numbers, items=channels, grain=across)
    _normalise(engine, x, gain, bias, moments, out, geometry)


def batch_norm_inference(
    engine: Engine,
    x: Array,
    gain: Array,
    bias: Array,
    running: Array,
    out: Array,
    moments: Array,
    *,
    epsilon: float = EPSILON,
) -> None:
    """Normalise each channel of x, [B,C] or [B,C,H,W], by the running moments; `out` may be x."""
    what = "batch_norm_inference"
    _, channels, size = _check_planes(what, x, gain, moments, None)
    check_same(what, (bias, (channels,)), (running, (2, channels)), (out, x.shape))
    _check_floats(what, bias, running, out)
    engine.run(RUNNING_MOMENTS, (running, moments), (epsilon,), items=channels, grain=GRAIN)
    _normalise(engine, x, gain, bias, moments, out, (channels, size))


def batch_norm_gradient(
    engine: Engine,
    delta: Array,
    x: Array,
    gain: Array,
    moments: Array,
    sums: Array,
    out: Array,
    by_gain: Array,
    by_bias: Array,
) -> None:
    """Compute the gradients of `batch_norm` by x into `out`, which may be delta, by gain and bias.

    `moments` is as `batch_norm` left it; `sums` may have been used since.
    """
    what = "batch_norm_gradient"
    batch, channels, size = _check_planes(what, x, gain, moments, sums)
    check_same(what, (delta, x.shape), (out, x.shape))
    check_same(what, (by_gain, (channels,)), (by_bias, (channels,)))
    _check_floats(what, delta, out, by_gain, by_bias)
    planes, geometry = batch * channels, (channels, size)
    arrays = (delta, x, moments, sums)
    engine.run(BATCH_PRODUCTS, arrays, geometry, items=planes, grain=max(1, GRAIN // size))
    column_sum(engine, sums.view(0, (batch, channels)), by_bias)
    column_sum(engine, sums.view(planes, (batch, channels)), by_gain)
    back = (delta, x, gain, moments, by_gain, by_bias, out)
    numbers = (*geometry, batch * size)
    engine.run(BATCH_NORMALISE_BACK, back, numbers, items=x.size, grain=GRAIN)


def _normalise(
    engine: Engine,
    x: Array,
    gain: Array,
    bias: Array,
    moments: Array,
    out: Array,
    geometry: tuple[int, int],
) -> None:
    arrays = (x, gain, bias, moments, out)
    engine.run(BATCH_NORMALISE, arrays, geometry, items=x.size, grain=GRAIN)


def _check_rows(what: str, x: Array, gain: Array, moments: Array) -> tuple[int, int]:
    """Return (B, C) of x[B,C]."""
    if len(x.shape) != 2 or 0 in x.shape:
        raise KernelError(f"{what} takes a matrix with rows, got {list(x.shape)}")
    rows, columns = x.shape
    check_same(what, (gain, (columns,)), (moments, (2, rows)))
    _check_floats(what, x, gain, moments)
    return rows, columns


def _check_planes(
    what: str, x: Array, gain: Array, moments: Array, sums: Array | None
) -> tuple[int, int, int]:
    """Return (B, C, elements of a plane) of x."""
    if len(x.shape) not in (2, 4) or 0 in x.shape:
        raise KernelError(f"{what} takes [B,C] or [B,C,H,W], got {list(x.shape)}")
    batch, channels, *extent = x.shape
    check_same(what, (gain, (channels,)), (moments, (2, channels)))
    _check_floats(what, x, gain, moments)
    if sums is not None:
        check_same(f"{what}'s workspace", (sums, (2, batch, channels)))
        _check_floats(what, sums)
    return batch, channels, math.prod(extent)


def _check_floats(what: str, *arrays: Array) -> None:
    for array in arrays:
        check_type(what, array, np.float32)


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


def plane_sums_twin(x: np.ndarray, sums: np.ndarray, size: int) -> None:
    """Sum planes."""
    sums[0] = x.reshape(*x.shape[:2], size).sum(axis=2)


def channel_means_twin(sums: np.ndarray, moments: np.ndarray, rows: int, count: float) -> None:
    """Compute channels' means from the sums of planes, the first of sums[2,B,C], or from x[B,C]."""
    added = sums[0] if sums.ndim == 3 else sums.reshape(rows, -1)
    moments[0] = np.add.reduce(added, axis=0) / count


def plane_squares_twin(
    x: np.ndarray, moments: np.ndarray, sums: np.ndarray, channels: int, size: int
) -> None:
    """Sum the squared differences from channels' means over planes."""
    centred = x.reshape(-1, channels, size) - moments[0, :, None]
    sums[0] = np.square(centred).sum(axis=2)


def channel_deviations_twin(
    sums: np.ndarray,
    moments: np.ndarray,
    running: np.ndarray,
    rows: int,
    count: float,
    momentum: float,
    epsilon: float,
) -> None:
    """Compute channels' 1 / deviation, and move the running moments."""
    total = np.add.reduce(sums[0], axis=0)
    moments[1] = 1 / np.sqrt(total / count + sums.dtype.type(epsilon))
    found = np.stack((moments[0], total / max(count - 1, 1)))
    running += (found - running) * running.dtype.type(momentum)


def running_moments_twin(running: np.ndarray, moments: np.ndarray, epsilon: float) -> None:
    """Take mean and 1 / deviation from the running moments."""
    moments[0] = running[0]
    moments[1] = 1 / np.sqrt(running[1] + running.dtype.type(epsilon))


def batch_normalise_twin(
    x: np.ndarray,
    gain: np.ndarray,
    bias: np.ndarray,
    moments: np.ndarray,
    out: np.ndarray,
    channels: int,
    size: int,
) -> None:
    """Normalise channels."""
    mean, inverse = moments[..., None]
    found = (x.reshape(-1, channels, size) - mean) * (inverse * gain[:, None]) + bias[:, None]
    out[...] = found.reshape(out.shape)


def batch_products_twin(
    delta: np.ndarray,
    x: np.ndarray,
    moments: np.ndarray,
    sums: np.ndarray,
    channels: int,
    size: int,
) -> None:
    """Sum over planes delta, and delta times the normalised input."""
    mean, inverse = moments[..., None]
    given = delta.reshape(-1, channels, size)
    sums[0] = given.sum(axis=2)
    sums[1] = (given * ((x.reshape(given.shape) - mean) * inverse)).sum(axis=2)


def batch_normalise_back_twin(
    delta: np.ndarray,
    x: np.ndarray,
    gain: np.ndarray,
    moments: np.ndarray,
    by_gain: np.ndarray,
    by_bias: np.ndarray,
    out: np.ndarray,
    channels: int,
    size: int,
    count: float,
) -> None:
    """Compute the gradient by the input."""
    mean, inverse = moments[..., None]
    given = delta.reshape(-1, channels, size)
    normal = (x.reshape(given.shape) - mean) * inverse
    slope, drift = by_gain[:, None] / count, by_bias[:, None] / count
    found = gain[:, None] * inverse * (given - drift - normal * slope)
    out[...] = found.reshape(out.shape)


_SOURCE = "normalise.cl"
_PLANES = (np.uint64, np.uint64)  # channels, elements of a plane
LAYER_NORM = Operation("layer_norm", _SOURCE, 5, (np.int32, np.float32), layer_norm_twin)
LAYER_NORM_BACK = Operation("layer_norm_back", _SOURCE, 5, (np.int32,), layer_norm_back_twin)
LAYER_NORM_PRODUCTS = Operation(
    "layer_norm_products", _SOURCE, 5, (np.int32,), layer_norm_products_twin
)
PLANE_SUMS = Operation("plane_sums", _SOURCE, 2, (np.int32,), plane_sums_twin)
CHANNEL_MEANS = Operation("channel_means", _SOURCE, 2, (np.int32, np.float32), channel_means_twin)
PLANE_SQUARES = Operation("plane_squares", _SOURCE, 3, _PLANES, plane_squares_twin)
CHANNEL_DEVIATIONS = Operation(
    "channel_deviations",
    _SOURCE,
    3,
    (np.int32, np.float32, np.float32, np.float32),
    channel_deviations_twin,
)
RUNNING_MOMENTS = Operation("running_moments", _SOURCE, 2, (np.float32,), running_moments_twin)
BATCH_NORMALISE = Operation("batch_normalise", _SOURCE, 5, _PLANES, batch_normalise_twin)
BATCH_PRODUCTS = Operation("batch_products", _SOURCE, 4, _PLANES, batch_products_twin)
BATCH_NORMALISE_BACK = Operation(
    "batch_normalise_back", _SOURCE, 7, (*_PLANES, np.float32), batch_normalise_back_twin
)
