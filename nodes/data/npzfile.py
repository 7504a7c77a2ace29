"""Read a person's .npz file; nothing in it is ever unpickled."""

from __future__ import annotations

import math
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from nodes.data.config import DataConfig, Task
from nodes.data.dataset import Dataset, Labels
from nodes.data.prepare import Rows, assemble, fits_float32, split
from nodes.errors import DataError

MEMBERS = ("x", "y", "x_test", "y_test")


def load_npz(config: DataConfig) -> Dataset:
    """Read the arrays ``x``, ``y`` and, where they are there, ``x_test`` and ``y_test``.

    ``x`` is [rows, …], made flat; ``y`` holds whole numbers from 0 in a classification, [rows] or
    [rows, targets] numbers in a regression. ``data.test_path`` names a file of its own with ``x``
    and ``y``. Raises DataError, one line that names file, array and row.
    """
    assert config.path is not None
    path = config.path
    arrays = _read(path)
    train = _pair(path, arrays, "x", "y", config.task)
    test = None
    if config.test_path is not None:
        test = _pair(config.test_path, _read(config.test_path), "x", "y", config.task)
    elif "x_test" in arrays or "y_test" in arrays:
        test = _pair(path, arrays, "x_test", "y_test", config.task)
    shape = tuple(int(n) for n in arrays["x"].shape[1:]) or (1,)
    if config.task == "classification":
        outputs = config.classes or max(int(train.y.max()) + 1, 2)
        for rows, where in ((train, path), (test, config.test_path or path)):
            if rows is not None:
                _check_classes(rows.y, outputs, where)
    else:
        outputs = train.y.shape[1]
    if test is None:
        train, test = split(train, config.task, config.test)
    if test.x.shape[1] != train.x.shape[1] or test.y.shape[1:] != train.y.shape[1:]:
        raise DataError(f"{config.test_path or path}: test rows have another shape than the others")
    return assemble(
        path.stem,
        config.task,
        train,
        test,
        outputs=outputs,
        shape=shape,
        standardise=config.standardise,
    )


def _read(path: Path) -> dict[str, npt.NDArray[Any]]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
            return {
                name: _member(path, name, archive) for name in MEMBERS if f"{name}.npy" in names
            }
    except FileNotFoundError:
        raise DataError(f"{path}: no such file: check data.path") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise DataError(f"{path}: not a whole .npz file: {error}") from None


def _member(path: Path, name: str, archive: zipfile.ZipFile) -> npt.NDArray[Any]:
    """Read one array; its header is checked against its size before memory is taken."""
    info = archive.getinfo(f"{name}.npy")
    with archive.open(info) as file:
        try:
            shape, fortran, dtype = _header(file)
        except ValueError as error:
            raise DataError(f"{path}: array {name!r}: not a valid .npy header: {error}") from None
        if dtype.kind not in "buif":
            raise DataError(f"{path}: array {name!r} holds {dtype}, not numbers")
        size = math.prod(shape) * dtype.itemsize
        if size != info.file_size - file.tell():
            raise DataError(f"{path}: array {name!r} is {list(shape)} of {dtype}, but not so long")
        data = file.read()
    flat = np.frombuffer(data, dtype)
    return flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape)


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(file)
    raise ValueError(f"version {version} is unknown")


def _pair(
    path: Path, arrays: dict[str, npt.NDArray[Any]], x_name: str, y_name: str, task: Task
) -> Rows:
    for name in (x_name, y_name):
        if name not in arrays:
            raise DataError(f"{path}: no array {name!r} in it")
    x, y = arrays[x_name], arrays[y_name]
    if x.ndim < 1 or not len(x) or not x.size:
        raise DataError(f"{path}: array {x_name!r} is {list(x.shape)}: it holds no rows")
    if y.ndim < 1 or len(y) != len(x):
        raise DataError(
            f"{path}: array {y_name!r} is {list(y.shape)}, but {x_name!r} has {len(x)} rows"
        )
    x = x.reshape(len(x), -1)
    y = y.reshape(len(y), -1)
    for name, array in ((x_name, x), (y_name, y)):
        fits = fits_float32(array) if array.dtype.kind == "f" else None
        if fits is not None and not fits.all():
            row, column = (int(i) for i in np.argwhere(~fits)[0])
            raise DataError(
                f"{path}: array {name!r}, row {row}: {array[row, column]!s} is not a finite float32"
            )
    if x.dtype != np.uint8:
        x = x.astype(np.float32)
    return Rows(x, _labels(path, y_name, y) if task == "classification" else y.astype(np.float32))


def _labels(path: Path, name: str, y: npt.NDArray[Any]) -> Labels:
    if y.shape[1] != 1:
        raise DataError(f"{path}: array {name!r} must be [rows], not {y.shape[1]} columns")
    column = y[:, 0]
    if column.dtype.kind == "f":
        broken = np.flatnonzero(column != np.floor(column))
        if len(broken):
            raise DataError(
                f"{path}: array {name!r}, row {broken[0]}: {column[broken[0]]!s} is no class: "
                'set data.task = "regression" to predict numbers'
            )
    beyond = np.flatnonzero((column < 0) | (column > 65535))
    if len(beyond):
        raise DataError(
            f"{path}: array {name!r}, row {beyond[0]}: label {column[beyond[0]]!s} is out of range"
        )
    return column.astype(np.int32)


def _check_classes(labels: Labels, classes: int, path: Path) -> None:
    beyond = np.flatnonzero(labels >= classes)
    if len(beyond):
        raise DataError(
            f"{path}: row {beyond[0]}: label {labels[beyond[0]]} is out of range: there are "
            f"{classes} classes, from 0"
        )
