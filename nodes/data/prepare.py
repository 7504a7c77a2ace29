"""From checked rows to a data set: hold out test rows, standardise, and make float32."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nodes.data.config import Task
from nodes.data.dataset import PIXEL, Dataset, Labels
from nodes.data.order import hold_out
from nodes.errors import DataError

FLOAT32_MAX = float(np.finfo(np.float32).max)


@dataclass(frozen=True, eq=False)
class Rows:
    """Features [rows, features] of any real dtype, and int32 labels or float32 targets."""

    x: npt.NDArray[Any]
    y: Labels


def fits_float32(values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Say for each value whether it is a finite float32; NaN is not."""
    fits: npt.NDArray[np.bool_] = np.abs(values) <= FLOAT32_MAX
    return fits


def split(rows: Rows, task: Task, fraction: float) -> tuple[Rows, Rows]:
    """Hold out a fixed share of the rows, stratified by class in a classification."""
    labels = rows.y if task == "classification" else None
    kept, held = hold_out(labels, len(rows.x), fraction)  # type: ignore[arg-type]
    return Rows(rows.x[kept], rows.y[kept]), Rows(rows.x[held], rows.y[held])


def assemble(
    name: str,
    task: Task,
    train: Rows,
    test: Rows,
    *,
    outputs: int,
    shape: tuple[int, ...],
    standardise: bool,
    class_names: tuple[str, ...] = (),
) -> Dataset:
    """Make a data set of training and test rows.

    8-bit features stay as they are and are scaled by 1/255; others become float32, standardised by
    the training rows' mean and deviation if asked. Raises DataError where no training row is left.
    """
    if not len(train.x):
        raise DataError(
            f"{name}: no training row is left: it has too few rows, or data.test is big"
        )
    train_x, test_x, scale = train.x, test.x, 1.0
    if train_x.dtype == np.uint8 and test_x.dtype == np.uint8:
        scale = PIXEL
    else:
        mean: npt.NDArray[np.float64] | float = 0.0
        factor: npt.NDArray[np.float64] | float = 1.0
        if standardise:
            mean = train_x.mean(axis=0, dtype=np.float64)
            deviation = train_x.std(axis=0, dtype=np.float64)
            factor = 1.0 / np.where(deviation > 0, deviation, 1.0)
        train_x, test_x = (
            ((part - mean) * factor).astype(np.float32) for part in (train_x, test_x)
        )
    return Dataset(
        name=name,
        task=task,
        train_x=np.ascontiguousarray(train_x),
        train_y=train.y,
        test_x=np.ascontiguousarray(test_x),
        test_y=test.y,
        outputs=outputs,
        shape=shape,
        scale=scale,
        class_names=class_names,
    )
