"""A person's .npz file as a data set, with errors that name array and row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nodes.data.arrayfile import read_npz
from nodes.data.config import DataConfig, Task
from nodes.data.dataset import Dataset, Labels
from nodes.data.prepare import Rows, assemble, fits_float32, split
from nodes.errors import DataError

MEMBERS = ("x", "y", "x_test", "y_test", "x_validation", "y_validation")
MOST_CLASSES = 65536


def load_npz(config: DataConfig) -> Dataset:
    """Read the arrays ``x``, ``y``, and ``x_test``, ``x_validation`` with their ``y`` if there.

    ``x`` is [rows, …], made flat; ``y`` holds whole numbers from 0 in a classification, [rows] or
    [rows, targets] numbers in a regression. ``data.test_path`` and ``data.validation_path`` name
    files of their own with ``x`` and ``y``. Raises DataError, one line that names file, array and
    row.
    """
    assert config.path is not None
    path = config.path
    arrays = read_npz(path, MEMBERS)
    train = _pair(path, arrays, "x", "y", config.task)
    test = validation = None
    if config.test_path is not None:
        test = _pair(config.test_path, read_npz(config.test_path, MEMBERS), "x", "y", config.task)
    elif "x_test" in arrays or "y_test" in arrays:
        test = _pair(path, arrays, "x_test", "y_test", config.task)
    if config.validation_path is not None:
        place = config.validation_path
        validation = _pair(place, read_npz(place, MEMBERS), "x", "y", config.task)
    elif "x_validation" in arrays or "y_validation" in arrays:
        validation = _pair(path, arrays, "x_validation", "y_validation", config.task)
    if config.task == "classification":
        outputs = config.classes or max(int(train.y.max()) + 1, 2)
    else:
        outputs = train.y.shape[1]
    for rows, where, what in (
        (train, path, "training"),
        (test, config.test_path or path, "test"),
        (validation, config.validation_path or path, "validation"),
    ):
        if rows is None:
            continue
        if rows.x.shape[1] != train.x.shape[1] or rows.y.shape[1:] != train.y.shape[1:]:
            raise DataError(f"{where}: {what} rows have another shape than the others")
        if config.task == "classification":
            _check_classes(rows.y, outputs, where)
    if test is None:
        train, test = split(train, config.task, config.test)
    return assemble(
        path.stem,
        config.task,
        train,
        test,
        outputs=outputs,
        shape=tuple(int(n) for n in arrays["x"].shape[1:]) or (1,),
        standardise=config.standardise,
        validation=validation if validation is not None else config.validation,
    )


def flat_rows(what: str, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return an array as [rows, numbers], checked; ``what`` names it in errors.

    Raises DataError where it holds no rows, or a number that is no finite float32.
    """
    if array.ndim < 1 or not array.size:
        raise DataError(f"{what} is {list(array.shape)}: it holds no rows")
    array = array.reshape(len(array), -1)
    fits = fits_float32(array) if array.dtype.kind == "f" else None
    if fits is not None and not fits.all():
        row, column = (int(i) for i in np.argwhere(~fits)[0])
        raise DataError(f"{what}, row {row}: {array[row, column]!s} is not a finite float32")
    return array


def whole_numbers(what: str, y: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return classes [rows, 1] as [rows]; raise DataError where one is no whole number.

    ``what`` names the array in errors.
    """
    if y.shape[1] != 1:
        raise DataError(f"{what} must be [rows], not {y.shape[1]} columns")
    column = y[:, 0]
    if column.dtype.kind == "f":
        broken = np.flatnonzero(column != np.floor(column))
        if len(broken):
            raise DataError(
                f"{what}, row {broken[0]}: {column[broken[0]]!s} is no class: "
                'set data.task = "regression" to predict numbers'
            )
    return column


def _pair(
    path: Path, arrays: dict[str, npt.NDArray[Any]], x_name: str, y_name: str, task: Task
) -> Rows:
    for name in (x_name, y_name):
        if name not in arrays:
            raise DataError(f"{path}: no array {name!r} in it")
    x = flat_rows(f"{path}: array {x_name!r}", arrays[x_name])
    if arrays[y_name].ndim < 1 or len(arrays[y_name]) != len(x):
        raise DataError(
            f"{path}: array {y_name!r} is {list(arrays[y_name].shape)}, but {x_name!r} has "
            f"{len(x)} rows"
        )
    what = f"{path}: array {y_name!r}"
    y = flat_rows(what, arrays[y_name])
    return Rows(x, _labels(what, y) if task == "classification" else y.astype(np.float32))


def _labels(what: str, y: npt.NDArray[Any]) -> Labels:
    column = whole_numbers(what, y)
    beyond = np.flatnonzero((column < 0) | (column >= MOST_CLASSES))
    if len(beyond):
        raise DataError(f"{what}, row {beyond[0]}: label {column[beyond[0]]!s} is out of range")
    return column.astype(np.int32)


def _check_classes(labels: Labels, classes: int, path: Path) -> None:
    beyond = np.flatnonzero(labels >= classes)
    if len(beyond):
        raise DataError(
            f"{path}: row {beyond[0]}: label {labels[beyond[0]]} is out of range: there are "
            f"{classes} classes, from 0"
        )
