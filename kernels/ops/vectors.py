"""Operations on whole arrays, whatever their shape: fill, scaled difference, clipping."""

from __future__ import annotations

import math

import numpy as np

from kernels.checks import check_whole
from kernels.errors import KernelError
from kernels.interface import Array, Engine
from kernels.operation import Operation
from kernels.ops.reductions import square_sum

GRAIN = 16384
"""Elements that are worth a work-item."""


def fill(engine: Engine, a: Array, value: float) -> None:
    """Set every element of `a`."""
    size = check_whole("fill", a)
    engine.run(FILL, (a,), (value,), items=size, grain=GRAIN)


def difference(engine: Engine, a: Array, b: Array, out: Array, *, factor: float = 1.0) -> None:
    """Compute `out = (a - b) * factor`; `out` may be `a` or `b`."""
    size = check_whole("difference", a, b, out)
    engine.run(DIFFERENCE, (a, b, out), (factor,), items=size, grain=GRAIN)


def clip_value(engine: Engine, a: Array, limit: float) -> None:
    """Bring every element of `a` to -limit..limit.

    A NaN stays one, and infinities become NaN: the check of finiteness sees them afterwards.
    """
    size = check_whole("clip_value", a)
    _check_limit("clip_value", limit)
    engine.run(CLIP_VALUE, (a,), (limit,), items=size, grain=GRAIN)


def clip_norm(engine: Engine, a: Array, limit: float, sums: Array) -> None:
    """Scale `a` so that its L2 norm is at most `limit`, if it is more.

    `sums` is from `reductions.workspace`. The squares are summed in float32, in an order that depends
    on the size alone. Where there are NaN or infinities, a NaN stays in `a`. A norm of over 1e19
    limits is infinite in float32: `a` becomes zeros.
    """
    size = check_whole("clip_norm", a)
    _check_limit("clip_norm", limit)
    squares = square_sum(engine, a, sums, factor=1 / limit)
    engine.run(CLIP_NORM, (a, squares), items=size, grain=GRAIN)


def _check_limit(what: str, limit: float) -> None:
    if not 0 < limit < math.inf:
        raise KernelError(f"{what}: the limit must be positive and finite, not {limit}")


def fill_twin(a: np.ndarray, value: float) -> None:
    """Set every element of `a`."""
    a[...] = value


def difference_twin(a: np.ndarray, b: np.ndarray, out: np.ndarray, factor: float) -> None:
    """Write (a - b) * factor to `out`, which may be `a` or `b`."""
    flat = out.reshape(-1)
    np.subtract(a.reshape(-1), b.reshape(-1), out=flat)
    flat *= flat.dtype.type(factor)


def clip_value_twin(a: np.ndarray, limit: float) -> None:
    """Bring every element of `a` to -limit..limit; infinities become NaN."""
    with np.errstate(invalid="ignore"):
        nothing = a - a  # 0, and NaN for a NaN and for infinities
    bound = a.dtype.type(limit)
    np.clip(a, -bound, bound, out=a)
    a += nothing


def clip_norm_twin(a: np.ndarray, squares: np.ndarray) -> None:
    """Scale `a` down to norm 1 where its square is larger."""
    (square,) = squares
    if square > 1:
        with np.errstate(all="ignore"):
            a *= a.dtype.type(1) / np.sqrt(square)


FILL = Operation("fill", "vectors.cl", 1, (np.float32,), fill_twin)
DIFFERENCE = Operation("difference", "vectors.cl", 3, (np.float32,), difference_twin)
CLIP_VALUE = Operation("clip_value", "vectors.cl", 1, (np.float32,), clip_value_twin)
CLIP_NORM = Operation("clip_norm", "vectors.cl", 2, (), clip_norm_twin)
