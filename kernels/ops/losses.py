"""Losses of a minibatch, each with its gradient.

All have one form: `loss(engine, output, target, delta, stats, rows)`. `output[B,C]` is what the model
computed; `target` is labels[B] (int32, 0..C-1) or [B,C] (float32), as each loss says. `delta[B,C]` is
the gradient of each example's loss by output, not divided by B. `stats[2]` is (sum of the examples'
losses, examples that are right). `rows` is from `workspace`, and may be used again at once.

A NaN in an example's output makes its loss NaN, so that it cannot pass for a number.
"""

from __future__ import annotations

from collections.abc import Callable

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


def softmax_cross_entropy_dense(
    engine: Engine, logits: Array, target: Array, delta: Array, stats: Array, rows: Array
) -> None:
    """Compute the sum over C of -target log(softmax(logits)), of probabilities target[B,C].

    `delta = softmax - target` where a target sums to 1. Right is an example whose logit and target
    are largest in the same column.
    """
    _run(engine, SOFTMAX_CROSS_ENTROPY_DENSE, logits, target, delta, stats, rows)


def binary_cross_entropy(
    engine: Engine, logits: Array, target: Array, delta: Array, stats: Array, rows: Array
) -> None:
    """Compute the mean over C of the cross-entropy of sigmoid(logits) with target[B,C] in 0..1.

    Right is an example all of whose logits have their target's side: above 0 where it is over 1/2.
    """
    _run(engine, BINARY_CROSS_ENTROPY, logits, target, delta, stats, rows)


def mean_absolute_error(
    engine: Engine, output: Array, target: Array, delta: Array, stats: Array, rows: Array
) -> None:
    """Compute the mean over C of |output - target|, of target[B,C]; its gradient at 0 is 0.

    Right is an example whose output and target are largest in the same column.
    """
    _run(engine, MEAN_ABSOLUTE_ERROR, output, target, delta, stats, rows)


def hinge(
    engine: Engine, output: Array, labels: Array, delta: Array, stats: Array, rows: Array
) -> None:
    """Compute max(0, 1 + the largest other score - the label's score), of labels[B].

    It is the form of Crammer and Singer 2001, "On the algorithmic implementation of multiclass
    kernel-based vector machines", as in scikit-learn and Keras; among equal scores the first counts.
    Right is an example whose largest score is the label's. A label outside 0..C-1 gives NaN.
    """
    _run(engine, HINGE, output, labels, delta, stats, rows, labelled=True)


def binary_hinge(
    engine: Engine, output: Array, target: Array, delta: Array, stats: Array, rows: Array
) -> None:
    """Compute the mean over C of max(0, 1 - target * output), of target[B,C] in {-1, 1}.

    Right is an example all of whose outputs have their target's sign.
    """
    _run(engine, BINARY_HINGE, output, target, delta, stats, rows)


def negative_log_likelihood(
    engine: Engine, output: Array, labels: Array, delta: Array, stats: Array, rows: Array
) -> None:
    """Compute -output[label] of log-probabilities output[B,C], of labels[B].

    Right is an example whose largest output is the label's. A label outside 0..C-1 gives NaN.
    """
    _run(engine, NEGATIVE_LOG_LIKELIHOOD, output, labels, delta, stats, rows, labelled=True)


def kullback_leibler(
    engine: Engine, output: Array, target: Array, delta: Array, stats: Array, rows: Array
) -> None:
    """Compute the divergence of output from target: the sum over C of target (log target - output).

    `output[B,C]` is log-probabilities, `target[B,C]` probabilities; 0 log 0 is 0. Right is an example
    whose output and target are largest in the same column.
    """
    _run(engine, KULLBACK_LEIBLER, output, target, delta, stats, rows)


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


def softmax_cross_entropy_dense_twin(
    logits: np.ndarray, target: np.ndarray, delta: np.ndarray, rows: np.ndarray, columns: int
) -> None:
    """Compute loss and gradient of softmax with cross-entropy by probabilities."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    np.exp(shifted, out=delta)
    total = delta.sum(axis=1, keepdims=True)
    weight = target.sum(axis=1, keepdims=True)
    delta *= weight / total
    delta -= target
    losses = (weight * np.log(total))[:, 0] - (target * shifted).sum(axis=1)
    _keep(rows, losses, logits.argmax(axis=1) == target.argmax(axis=1))


def binary_cross_entropy_twin(
    logits: np.ndarray, target: np.ndarray, delta: np.ndarray, rows: np.ndarray, columns: int
) -> None:
    """Compute loss and gradient of sigmoid with cross-entropy."""
    small = np.exp(-np.abs(logits))
    losses = np.maximum(logits, 0) - logits * target + np.log1p(small)
    np.divide(np.where(logits < 0, small, 1), 1 + small, out=delta)
    delta -= target
    delta /= columns
    _keep(rows, losses.sum(axis=1) / columns, ((logits > 0) == (target > 0.5)).all(axis=1))


def mean_absolute_error_twin(
    output: np.ndarray, target: np.ndarray, delta: np.ndarray, rows: np.ndarray, columns: int
) -> None:
    """Compute the mean over columns of the difference's size, and its gradient by output."""
    np.subtract(output, target, out=delta)
    losses = np.abs(delta).sum(axis=1) / columns
    np.sign(delta, out=delta)
    delta /= columns
    _keep(rows, losses, output.argmax(axis=1) == target.argmax(axis=1))


def hinge_twin(
    output: np.ndarray, labels: np.ndarray, delta: np.ndarray, rows: np.ndarray, columns: int
) -> None:
    """Compute the multi-class hinge loss and a subgradient."""
    every = np.arange(len(labels))
    known = (labels >= 0) & (labels < columns) & ~np.isnan(output).any(axis=1)
    safe = np.where(known, labels, 0)
    others = output.copy()
    others[every, safe] = -np.inf
    wrong = others.argmax(axis=1)
    margin = np.maximum(1 + others[every, wrong] - output[every, safe], 0)
    delta[...] = 0
    delta[every, wrong] = margin > 0
    delta[every, safe] = np.where(margin > 0, -1, 0)
    delta[~known] = np.nan
    _keep(rows, np.where(known, margin, np.nan), output.argmax(axis=1) == labels)


def binary_hinge_twin(
    output: np.ndarray, target: np.ndarray, delta: np.ndarray, rows: np.ndarray, columns: int
) -> None:
    """Compute the mean over columns of the hinge loss, and a subgradient."""
    margin = np.maximum(1 - target * output, 0)
    np.multiply(target, np.sign(margin), out=delta)
    delta /= -columns
    _keep(rows, margin.sum(axis=1) / columns, ((output > 0) == (target > 0)).all(axis=1))


def negative_log_likelihood_twin(
    output: np.ndarray, labels: np.ndarray, delta: np.ndarray, rows: np.ndarray, columns: int
) -> None:
    """Pick each label's log-probability."""
    every = np.arange(len(labels))
    known = (labels >= 0) & (labels < columns) & ~np.isnan(output).any(axis=1)
    safe = np.where(known, labels, 0)
    delta[...] = 0
    delta[every, safe] = -1
    delta[~known] = np.nan
    losses = np.where(known, -output[every, safe], np.nan)
    _keep(rows, losses, output.argmax(axis=1) == labels)


def kullback_leibler_twin(
    output: np.ndarray, target: np.ndarray, delta: np.ndarray, rows: np.ndarray, columns: int
) -> None:
    """Compute the divergence from target of what output is the logarithm of."""
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = target * (np.log(target) - output)
    terms[(target == 0) & ~np.isnan(output)] = 0
    np.negative(target, out=delta)
    _keep(rows, terms.sum(axis=1), output.argmax(axis=1) == target.argmax(axis=1))


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


def _loss(name: str, twin: Callable[..., None]) -> Operation:
    return Operation(name, "losses.cl", 4, (np.int32,), twin)


SOFTMAX_CROSS_ENTROPY = _loss("softmax_cross_entropy", softmax_cross_entropy_twin)
SOFTMAX_CROSS_ENTROPY_DENSE = _loss("softmax_cross_entropy_dense", softmax_cross_entropy_dense_twin)
BINARY_CROSS_ENTROPY = _loss("binary_cross_entropy", binary_cross_entropy_twin)
MEAN_SQUARED_ERROR = _loss("mean_squared_error", mean_squared_error_twin)
MEAN_ABSOLUTE_ERROR = _loss("mean_absolute_error", mean_absolute_error_twin)
HINGE = _loss("hinge", hinge_twin)
BINARY_HINGE = _loss("binary_hinge", binary_hinge_twin)
NEGATIVE_LOG_LIKELIHOOD = _loss("negative_log_likelihood", negative_log_likelihood_twin)
KULLBACK_LEIBLER = _loss("kullback_leibler", kullback_leibler_twin)
SUM_ROWS = Operation("sum_rows", "losses.cl", 2, (np.int32,), sum_rows_twin)
