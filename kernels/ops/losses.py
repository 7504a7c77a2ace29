"""Losses of a minibatch, each with its gradient.

All have one form: `loss(engine, output, target, delta, stats, rows)`. `output[B,C]` is what the model
computed; `target` is labels[B] (int32, 0..C-1) or [B,C] (float32), as each loss says. `delta[B,C]` is
the gradient of each example's loss by output, not divided by B. `stats[2]` is (sum of the examples'
losses, examples that are right). `rows` is from `workspace`, and may be used again at once.

A NaN in an example's output makes its loss NaN, so that it cannot pass for a number.
"""

from __future__ import annotations

import numpy as np

from kernels.checks import check_same, check_type
from kernels.errors import KernelError
from kernels.interface import Array, Engine
from kernels.operation import Operation

GRAIN = 512
"""Elements of output that are worth a work-item."""


def workspace(engine: Engine, rows: int) -> Array:
    """Return an array in which losses keep what comes of each of up to so many examples."""
    return engine.empty((2, rows))


def softmax_cross_entropy(
    engine: Engine, logits: Array, labels: Array, delta: Array, stats: Array, rows: Array
) -> None:
    """Compute -log(softmax(logits)[label]); `delta = softmax - onehot`.

    Right is an example whose largest logit is the label's. A label outside 0..C-1 gives NaN.
    """
    _run(engine, SOFTMAX_CROSS_ENTROPY, logits, labels, delta, stats, rows, labelled=True)


def mean_squared_error(
    engine: Engine, output: Array, target: Array, delta: Array, stats: Array, rows: Array
) -> None:
    """Compute the mean over C of (output - target)^2, of target[B,C].

    Right is an example whose output and target are largest in the same column.
    """
    _run(engine, MEAN_SQUARED_ERROR, output, target, delta, stats, rows)


def _run(
    engine: Engine,
    operation: Operation,
    output: Array,
    target: Array,
    delta: Array,
    stats: Array,
    rows: Array,
    *,
    labelled: bool = False,
) -> None:
    """Check the arrays, and compute a loss by labels or by a target for each output."""
    if len(output.shape) != 2 or 0 in output.shape:
        raise KernelError(f"a loss takes a matrix with rows, got {list(output.shape)}")
    count, columns = output.shape
    check_same(
        "a loss",
        (target, (count,) if labelled else (count, columns)),
        (delta, (count, columns)),
        (stats, (2,)),
    )
    if labelled:
        check_type("a loss's labels", target, np.int32)
    for array in (output, delta, stats, rows, *(() if labelled else (target,))):
        check_type("a loss", array, np.float32)
    if rows.size < 2 * count:
        raise KernelError(f"a loss's workspace is one of {rows.size // 2} rows, not of {count}")
    numbers = (columns,)
    grain = max(1, GRAIN // columns)
    engine.run(operation, (output, target, delta, rows), numbers, items=count, grain=grain)
    engine.run(SUM_ROWS, (rows, stats), (count,), items=1)


def softmax_cross_entropy_twin(
    logits: np.ndarray, labels: np.ndarray, delta: np.ndarray, rows: np.ndarray, classes: int
) -> None:
    """Compute loss and gradient of softmax with cross-entropy, shifted by each row's maximum."""
    every = np.arange(len(labels))
    known = (labels >= 0) & (labels < classes)
    safe = np.where(known, labels, 0)
    np.subtract(logits, logits.max(axis=1, keepdims=True), out=delta)
    picked = delta[every, safe]
    np.exp(delta, out=delta)
    total = delta.sum(axis=1, keepdims=True)
    delta /= total
    delta[every, safe] -= 1
    delta[~known] = np.nan
    losses = np.where(known, np.log(total[:, 0]) - picked, np.nan)
    _keep(rows, losses, logits.argmax(axis=1) == labels)


def mean_squared_error_twin(
    output: np.ndarray, target: np.ndarray, delta: np.ndarray, rows: np.ndarray, columns: int
) -> None:
    """Compute the mean over columns of the squared difference, and its gradient by output."""
    np.subtract(output, target, out=delta)
    losses = np.square(delta).sum(axis=1) / columns
    delta *= 2 / columns
    _keep(rows, losses, output.argmax(axis=1) == target.argmax(axis=1))


def _keep(rows: np.ndarray, losses: np.ndarray, hits: np.ndarray) -> None:
    """Write each row's loss and hit to the workspace."""
    count = len(losses)
    flat = rows.reshape(-1)
    flat[:count] = losses
    flat[count : 2 * count] = hits


def sum_rows_twin(rows: np.ndarray, stats: np.ndarray, count: int) -> None:
    """Add up losses and hits, from the first row to the last."""
    pairs = rows.reshape(-1)[: 2 * count].reshape(2, count)
    stats[...] = np.add.accumulate(pairs, axis=1)[:, -1]


SOFTMAX_CROSS_ENTROPY = Operation(
    "softmax_cross_entropy", "losses.cl", 4, (np.int32,), softmax_cross_entropy_twin
)
MEAN_SQUARED_ERROR = Operation(
    "mean_squared_error", "losses.cl", 4, (np.int32,), mean_squared_error_twin
)
SUM_ROWS = Operation("sum_rows", "losses.cl", 2, (np.int32,), sum_rows_twin)
