"""Batch normalisation, of matrices [B,C] and of images [B,C,H,W].

Source: Ioffe and Szegedy 2015, "Batch normalization: accelerating deep network training by reducing
internal covariate shift".

Every sum's order depends on shapes alone. `moments` keeps mean and 1 / deviation for the way back.
"""

from __future__ import annotations

import math

import numpy as np

from kernels.checks import check_floats, check_same
from kernels.errors import KernelError
from kernels.interface import Array, Engine
from kernels.operation import Operation
from kernels.ops.reductions import column_sum

GRAIN = 4096
"""Elements that are worth a work-item."""

EPSILON = 1e-5
"""Added to a variance, so that no constant input divides by zero."""


def batch_workspace(engine: Engine, shape: tuple[int, ...]) -> Array:
    """Return an array for the sums over an input of such a shape; a matrix [B,C] needs none."""
    return engine.empty((2, *shape[:2]) if math.prod(shape[2:]) > 1 else (0,))


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
    check_floats(what, bias, running, out)
    planes, count, geometry = batch * channels, batch * size, (channels, size)
    grain, across = max(1, GRAIN // size), max(16, GRAIN // batch)
    if size == 1:
        numbers = (batch, momentum, epsilon)
        engine.run(COLUMN_MOMENTS, (x, moments, running), numbers, items=channels, grain=across)
    else:
        engine.run(PLANE_SUMS, (x, sums), (size,), items=planes, grain=grain)
        engine.run(CHANNEL_MEANS, (sums, moments), (batch, count), items=channels, grain=across)
        engine.run(PLANE_SQUARES, (x, moments, sums), geometry, items=planes, grain=grain)
        arrays, of = (sums, moments, running), (batch, count, momentum, epsilon)
        engine.run(CHANNEL_DEVIATIONS, arrays, of, items=channels, grain=across)
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
    check_floats(what, bias, running, out)
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
    check_floats(what, delta, out, by_gain, by_bias)
    planes, geometry = batch * channels, (channels, size)
    if size == 1:
        across = max(16, GRAIN // batch)
        columns = (delta, x, moments, by_gain, by_bias)
        engine.run(COLUMN_PRODUCTS, columns, (batch,), items=channels, grain=across)
    else:
        arrays, grain = (delta, x, moments, sums), max(1, GRAIN // size)
        engine.run(PLANE_PRODUCTS, arrays, geometry, items=planes, grain=grain)
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


def _check_planes(
    what: str, x: Array, gain: Array, moments: Array, sums: Array | None
) -> tuple[int, int, int]:
    """Return (B, C, elements of a plane) of x."""
    if len(x.shape) not in (2, 4) or 0 in x.shape:
        raise KernelError(f"{what} takes [B,C] or [B,C,H,W], got {list(x.shape)}")
    batch, channels, *extent = x.shape
    check_same(what, (gain, (channels,)), (moments, (2, channels)))
    check_floats(what, x, gain, moments)
    if sums is not None and math.prod(extent) > 1:
        check_same(f"{what}'s workspace", (sums, (2, batch, channels)))
        check_floats(what, sums)
    return batch, channels, math.prod(extent)


def column_moments_twin(
    x: np.ndarray,
    moments: np.ndarray,
    running: np.ndarray,
    rows: int,
    momentum: float,
    epsilon: float,
) -> None:
    """Compute a matrix's moments by columns, from the first row to the last."""
    rows_of = x.reshape(rows, -1)
    moments[0] = np.add.reduce(rows_of, axis=0) / rows
    squares = np.add.reduce(np.square(rows_of - moments[0]), axis=0)
    _keep(squares, moments, running, rows, momentum, epsilon)


def column_products_twin(
    delta: np.ndarray,
    x: np.ndarray,
    moments: np.ndarray,
    by_gain: np.ndarray,
    by_bias: np.ndarray,
    rows: int,
) -> None:
    """Sum delta, and delta times the normalised input, from the first row to the last."""
    mean, inverse = moments
    given = delta.reshape(rows, -1)
    np.add.reduce(given * ((x.reshape(given.shape) - mean) * inverse), axis=0, out=by_gain)
    np.add.reduce(given, axis=0, out=by_bias)


def plane_sums_twin(x: np.ndarray, sums: np.ndarray, size: int) -> None:
    """Sum planes."""
    sums[0] = x.reshape(*x.shape[:2], size).sum(axis=2)


def channel_means_twin(sums: np.ndarray, moments: np.ndarray, rows: int, count: float) -> None:
    """Compute channels' means from the sums of planes, the first of sums[2,B,C]."""
    moments[0] = np.add.reduce(sums[0], axis=0) / count


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
    _keep(np.add.reduce(sums[0], axis=0), moments, running, count, momentum, epsilon)


def _keep(
    squares: np.ndarray,
    moments: np.ndarray,
    running: np.ndarray,
    count: float,
    momentum: float,
    epsilon: float,
) -> None:
    """Keep 1 / deviation and the running moments, from sums of squared differences."""
    moments[1] = 1 / np.sqrt(squares / count + squares.dtype.type(epsilon))
    found = np.stack((moments[0], squares / max(count - 1, 1)))
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


def plane_products_twin(
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
COLUMN_MOMENTS = Operation(
    "column_moments", _SOURCE, 3, (np.int32, np.float32, np.float32), column_moments_twin
)
COLUMN_PRODUCTS = Operation("column_products", _SOURCE, 5, (np.int32,), column_products_twin)
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
PLANE_PRODUCTS = Operation("plane_products", _SOURCE, 4, _PLANES, plane_products_twin)
BATCH_NORMALISE_BACK = Operation(
    "batch_normalise_back", _SOURCE, 7, (*_PLANES, np.float32), batch_normalise_back_twin
)
