"""How good predictions are: loss, and what people ask for beside it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from nodes.data.dataset import Labels
from nodes.data.schema import Schema

Doubles = npt.NDArray[np.float64]

LARGEST_MATRIX = 1000
"""The most classes for which a confusion matrix is made: it has as many rows and columns."""


def measure(schema: Schema, outputs: Doubles, answers: Labels) -> dict[str, Any]:
    """Compare a model's outputs [rows, outputs], before softmax, with labels or targets.

    In a classification: ``loss`` (mean cross-entropy), ``accuracy``, ``classes`` (``name``,
    ``rows`` of that class, ``precision``, ``recall``, ``f1``; 0 where there is nothing to divide by)
    and ``confusion`` [true class][predicted class], None beyond `LARGEST_MATRIX` classes. In a
    regression: ``loss`` and ``mse`` (one number: the mean over rows and targets), ``mae``, and
    ``r2``, the mean over targets, None where a target is the same in every row.
    """
    if schema.task == "regression":
        return _regression(outputs, answers.astype(np.float64))
    return _classification(schema, outputs, answers)


def _classification(
    schema: Schema, outputs: npt.NDArray[np.float64], labels: Labels
) -> dict[str, Any]:
    rows, classes = np.arange(len(outputs)), schema.outputs
    shifted = outputs - outputs.max(axis=1, keepdims=True)
    losses = np.log(np.exp(shifted).sum(axis=1)) - shifted[rows, labels]
    chosen = outputs.argmax(axis=1)
    true = np.bincount(labels, minlength=classes)
    guessed = np.bincount(chosen, minlength=classes)
    right = np.bincount(labels[chosen == labels], minlength=classes)
    precision = _ratio(right, guessed)
    recall = _ratio(right, true)
    f1 = _ratio(2 * right, true + guessed)
    confusion = None
    if classes <= LARGEST_MATRIX:
        pairs = np.bincount(labels.astype(np.int64) * classes + chosen, minlength=classes**2)
        confusion = pairs.reshape(classes, classes).tolist()
    return {
        "loss": float(losses.mean()),
        "accuracy": float(right.sum() / len(labels)),
        "classes": [
            {
                "name": name,
                "rows": int(true[code]),
                "precision": float(precision[code]),
                "recall": float(recall[code]),
                "f1": float(f1[code]),
            }
            for code, name in enumerate(schema.labels)
        ],
        "confusion": confusion,
    }


def _regression(outputs: npt.NDArray[np.float64], targets: Doubles) -> dict[str, Any]:
    errors = outputs - targets
    mse = float(np.square(errors).mean())
    spread = np.square(targets - targets.mean(axis=0)).sum(axis=0)
    r2 = None
    if spread.all():
        r2 = float((1.0 - np.square(errors).sum(axis=0) / spread).mean())
    return {"loss": mse, "mse": mse, "mae": float(np.abs(errors).mean()), "r2": r2}


def _ratio(
    part: npt.NDArray[np.integer[Any]], whole: npt.NDArray[np.integer[Any]]
) -> npt.NDArray[np.float64]:
    ratio: npt.NDArray[np.float64] = part / np.maximum(whole, 1)
    return ratio
