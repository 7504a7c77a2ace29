"""From checked rows to a data set: hold out rows, find out how to prepare features, and do it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nodes.data.config import Task
from nodes.data.dataset import PIXEL, Dataset, Labels
from nodes.data.order import SPLIT, VALIDATION, hold_out
from nodes.data.schema import Schema
from nodes.data.transform import Transform
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


def split(rows: Rows, task: Task, fraction: float, use: int = SPLIT) -> tuple[Rows, Rows]:
    """Hold out a fixed share of the rows, stratified by class in a classification."""
    labels = rows.y if task == "classification" else None
    kept, held = hold_out(labels, len(rows.x), fraction, use)  # type: ignore[arg-type]
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
    validation: Rows | float = 0.0,
    scale: float = PIXEL,
) -> Dataset:
    """Make a data set of training and test rows.

    ``validation`` is rows of its own, or the share of the training rows to hold out. Where all
    features are 8-bit they stay so and are multiplied by ``scale``; others become float32,
    standardised by the training rows' mean and deviation if asked. Raises DataError where no row is
    left to train on, or none was held out.
    """
    if isinstance(validation, Rows):
        held = validation
    elif validation:
        train, held = split(train, task, validation, VALIDATION)
        if not len(held.x):
            raise DataError(
                f"{name}: data.validation = {validation:g} holds out no row: it is too small"
            )
    else:
        held = Rows(train.x[:0], train.y[:0])
    if not len(train.x):
        raise DataError(
            f"{name}: no training row is left: it has too few rows, or data.test is big"
        )
    parts = [train.x, held.x, test.x]
    if all(part.dtype == np.uint8 for part in parts):
        transform = Transform(scale=scale)
    else:
        transform = Transform.standardising(train.x) if standardise else Transform()
        parts = [transform.apply(part) for part in parts]
    train_x, validation_x, test_x = (np.ascontiguousarray(part) for part in parts)
    return Dataset(
        name=name,
        schema=Schema(task, shape, outputs, class_names, transform),
        train_x=train_x,
        train_y=train.y,
        validation_x=validation_x,
        validation_y=held.y,
        test_x=test_x,
        test_y=test.y,
    )
