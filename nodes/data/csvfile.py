"""A person's CSV file as a data set, with errors that name the line."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nodes.data.classes import ClassCodes, Key, key_of
from nodes.data.config import DataConfig
from nodes.data.csvtable import Columns, Table, numeric, read_table
from nodes.data.dataset import Dataset
from nodes.data.prepare import FLOAT32_MAX, Rows, assemble, split
from nodes.errors import DataError

MOST_CLASSES_COUNTED = 1000


def load_csv(config: DataConfig) -> Dataset:
    """Read ``data.path``, and ``data.test_path`` and ``data.validation_path`` where they are given.

    Raises DataError, one line with file and line number, where a cell is no finite number, a row
    has another number of columns, or a label is out of range.
    """
    assert config.path is not None
    columns = Columns(config.label, config.header)
    table = read_table(config.path, columns)
    codes = _count_classes(table, config.classes) if config.task == "classification" else None
    rows = labelled(table, codes)
    others = {}
    for path in (config.test_path, config.validation_path):
        if path is not None:
            other = read_table(path, columns)
            if other.columns != table.columns:
                raise DataError(
                    f"{path}: {other.columns} columns instead of {table.columns}, as many as "
                    f"{table.path} has"
                )
            others[path] = labelled(other, codes)
    if config.test_path is not None:
        train, test = rows, others[config.test_path]
    else:
        train, test = split(rows, config.task, config.test)
    return assemble(
        config.path.stem,
        config.task,
        train,
        test,
        outputs=len(codes.names) if codes is not None else 1,
        shape=(table.columns - 1,),
        standardise=config.standardise,
        class_names=codes.names if codes is not None else (),
        validation=config.validation
        if config.validation_path is None
        else others[config.validation_path],
    )


def labelled(table: Table, codes: ClassCodes | None) -> Rows:
    """Return a table's rows with labels as ``codes`` number them, or as targets where it is None.

    Raises DataError, one line with file and line number, where a label does not fit.
    """
    if codes is None:
        return Rows(table.x, _targets(table))
    numbers = np.empty(len(table.labels), np.int32)
    for row in range(len(numbers)):
        number = codes.find(_class(table, row))
        if number is None:
            raise DataError(
                f"{table.at(row)}: label {table.labels[row].strip()!r} is none of the "
                f"{len(codes.names)} classes ({codes.listed})"
            )
        numbers[row] = number
    return Rows(table.x, numbers)


def _targets(table: Table) -> npt.NDArray[np.float32]:
    targets = np.empty((len(table.labels), 1), np.float64)
    for row, cell in enumerate(table.labels):
        if not numeric(cell) or not abs(float(cell)) <= FLOAT32_MAX:
            raise DataError(f"{table.at(row)}: {table.label} is {cell!r}, not a finite float32")
        targets[row] = float(cell)
    return targets.astype(np.float32)


def _count_classes(table: Table, classes: int | None) -> ClassCodes:
    """Number the classes of a label column in order: numbers first, then text.

    Where the number of classes is given, whole numbers are the classes' own numbers.
    """
    keys = {_class(table, row) for row in range(len(table.labels))}
    found = sorted(keys, key=lambda key: (isinstance(key, str), key))
    if classes is not None and all(isinstance(key, int) for key in found):
        found = list(range(classes))
    elif classes is not None and len(found) > classes:
        raise DataError(
            f"{table.path}: {table.label} has {len(found)} distinct values, "
            f"data.classes says {classes}"
        )
    elif classes is None and len(found) > MOST_CLASSES_COUNTED:
        raise DataError(
            f"{table.path}: {table.label} has {len(found)} distinct values: give data.classes "
            'if these are classes, or set data.task = "regression"'
        )
    elif classes is None and len(found) < 2:
        raise DataError(
            f"{table.path}: {table.label} is {table.labels[0]!r} in every row: "
            "is data.label the right column?"
        )
    names = [str(key) for key in found]
    names += [f"class {number}" for number in range(len(names), classes or 0)]
    return ClassCodes(names)


def _class(table: Table, row: int) -> Key:
    cell = table.labels[row].strip()
    if not cell:
        raise DataError(f"{table.at(row)}: the label is empty")
    try:
        return key_of(cell)
    except ValueError:
        raise DataError(
            f"{table.at(row)}: label {cell} is no class: "
            'set data.task = "regression" to predict numbers'
        ) from None
