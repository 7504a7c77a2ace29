"""Rows for a trained model: features as a person has them, with or without labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nodes.data.arrayfile import read_npy, read_npz
from nodes.data.classes import ClassCodes
from nodes.data.csvfile import labelled
from nodes.data.csvtable import Columns, read_table
from nodes.data.dataset import Labels
from nodes.data.idx import images_at, labels_beside, read_idx
from nodes.data.npzfile import flat_rows, whole_numbers
from nodes.data.prepare import Rows
from nodes.data.schema import Schema
from nodes.errors import DataError


def read_features(path: Path, schema: Schema, columns: Columns) -> npt.NDArray[Any]:
    """Read raw features [rows, features] from CSV, .npz (array ``x``), .npy or IDX images.

    A CSV's label column is passed over, where it has one column more than the model takes. Raises
    DataError, one line that names the file, and the line or row where there is one.
    """
    match path.suffix.lower():
        case ".csv":
            return read_table(path, columns, schema.features).x
        case ".npz":
            x = read_npz(path, ("x",)).get("x")
            if x is None:
                raise DataError(f"{path}: no array 'x' in it")
            return _features(f"{path}: array 'x'", x, schema)
        case ".npy":
            return _features(str(path), read_npy(path), schema)
        case _:
            return _images(images_at(path), schema)


def read_labelled(path: Path, schema: Schema, columns: Columns) -> Rows:
    """Read raw features, and labels as the model numbers its classes, or targets.

    From CSV with a label column, .npz with ``x`` and ``y``, or IDX images with
    the labels beside them. A label is a class's name; where the names are no numbers, it may be
    the class's number. Raises DataError as `read_features`.
    """
    codes = None
    if schema.task == "classification":
        codes = ClassCodes(schema.labels, by_number=True)
    match path.suffix.lower():
        case ".csv":
            table = read_table(path, columns, schema.features)
            if not table.labels:
                raise DataError(
                    f"{path}: {table.columns} columns, all of them features: to evaluate, it needs "
                    "a label column too"
                )
            rows = labelled(table, codes)
            if rows.y.ndim > 1 and rows.y.shape[1] != schema.outputs:
                raise DataError(f"{path}: has one target, but the model has {schema.outputs}")
            return rows
        case ".npz":
            arrays = read_npz(path, ("x", "y"))
            for name in ("x", "y"):
                if name not in arrays:
                    raise DataError(f"{path}: no array {name!r} in it")
            x = _features(f"{path}: array 'x'", arrays["x"], schema)
            return Rows(x, _answers(f"{path}: array 'y'", arrays["y"], len(x), schema, codes))
        case ".npy":
            raise DataError(f"{path}: holds no labels: give a .csv or .npz file, or IDX files")
        case _:
            images = images_at(path)
            x = _images(images, schema)
            labels = labels_beside(images)
            return Rows(x, _answers(str(labels), read_idx(labels, 1), len(x), schema, codes))


def _images(path: Path, schema: Schema) -> npt.NDArray[Any]:
    return _features(str(path), read_idx(path, 3), schema)


def _features(what: str, array: npt.NDArray[Any], schema: Schema) -> npt.NDArray[Any]:
    x = flat_rows(what, array)
    if x.shape[1] != schema.features:
        raise DataError(
            f"{what} has {x.shape[1]} features a row, but the model takes {schema.features}"
        )
    return x


def _answers(
    what: str, y: npt.NDArray[Any], rows: int, schema: Schema, codes: ClassCodes | None
) -> Labels:
    if y.ndim < 1 or len(y) != rows:
        raise DataError(f"{what} is {list(y.shape)}, but there are {rows} rows of features")
    y = flat_rows(what, y)
    if codes is None:
        if y.shape[1] != schema.outputs:
            raise DataError(f"{what} has {y.shape[1]} targets, but the model has {schema.outputs}")
        return y.astype(np.float32)
    values, places = np.unique(whole_numbers(what, y), return_inverse=True)
    numbers = [codes.find(int(value)) for value in values]
    for value, number in zip(values, numbers, strict=True):
        if number is None:
            row = int(np.flatnonzero(y[:, 0] == value)[0])
            raise DataError(
                f"{what}, row {row}: label {int(value)} is none of the {len(codes.names)} classes "
                f"({codes.listed})"
            )
    return np.array(numbers, np.int32)[places]
