"""Softmax of rows and its logarithm, for what the losses do not fuse (`kernels.ops.losses`).

All take matrices [B,C] of one shape, and `out` may be an input. Rows are shifted by their maximum, so
that nothing overflows (Blanchard, Higham and Higham 2021). A NaN in a row makes all of it NaN.
"""

from __future__ import annotations

import numpy as np

from kernels.checks import check_same, check_type
from kernels.errors import KernelError
from kernels.interface import Array, Engine
from kernels.operation import Operation

GRAIN = 2048
"""Elements that are worth a work-item."""


def softmax(engine: Engine, x: Array, out: Array) -> None:
    """Compute each row's `exp(x) / sum(exp(x))`."""
    _run(engine, SOFTMAX, x, out)


def softmax_gradient(engine: Engine, delta: Array, y: Array, out: Array) -> None:
    """Compute the gradient by x from that by y, which is softmax's output."""
    _run(engine, SOFTMAX_BACK, delta, y, out)


def log_softmax(engine: Engine, x: Array, out: Array) -> None:
    """Compute `log(softmax(x))`, the log-probabilities that some losses take."""
    _run(engine, LOG_SOFTMAX, x, out)


def log_softmax_gradient(engine: Engine, delta: Array, y: Array, out: Array) -> None:
    """Compute the gradient by x from that by y, which is log_softmax's output."""
    _run(engine, LOG_SOFTMAX_BACK, delta, y, out)


def _run(engine: Engine, operation: Operation, *arrays: Array) -> None:
    shape = arrays[0].shape
    if len(shape) != 2 or 0 in shape:
        raise KernelError(f"softmax takes a matrix with rows, got {list(shape)}")
    check_same("softmax", *((array, shape) for array in arrays))
    for array in arrays:
        check_type("softmax", array, np.float32)
    rows, columns = shape
    engine.run(operation, arrays, (columns,), items=rows, grain=max(1, GRAIN // columns))


def softmax_twin(x: np.ndarray, out: np.ndarray, columns: int) -> None:
    """Compute softmax, shifted by each row's maximum."""
    np.subtract(x, x.max(axis=1, keepdims=True), out=out)
    np.exp(out, out=out)
    out /= out.sum(axis=1, keepdims=True)


def softmax_back_twin(delta: np.ndarray, y: np.ndarray, out: np.ndarray, columns: int) -> None:
    """Compute softmax's gradient."""
    np.multiply(y, delta - (delta * y).sum(axis=1, keepdims=True), out=out)


def log_softmax_twin(x: np.ndarray, out: np.ndarray, columns: int) -> None:
    """Compute softmax's logarithm, shifted by each row's maximum."""
    np.subtract(x, x.max(axis=1, keepdims=True), out=out)
    out -= np.log(np.exp(out).sum(axis=1, keepdims=True))


def log_softmax_back_twin(delta: np.ndarray, y: np.ndarray, out: np.ndarray, columns: int) -> None:
    """Compute the logarithm's gradient."""
    np.subtract(delta, np.exp(y) * delta.sum(axis=1, keepdims=True), out=out)


SOFTMAX = Operation("softmax", "softmax.cl", 2, (np.int32,), softmax_twin)
SOFTMAX_BACK = Operation("softmax_back", "softmax.cl", 3, (np.int32,), softmax_back_twin)
LOG_SOFTMAX = Operation("log_softmax", "softmax.cl", 2, (np.int32,), log_softmax_twin)
LOG_SOFTMAX_BACK = Operation(
    "log_softmax_back", "softmax.cl", 3, (np.int32,), log_softmax_back_twin
)
