"""Data that a program holds in memory, as a file that every peer on this machine can read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nodes.data.dataset import PIXEL, Dataset
from nodes.data.npzfile import MEMBERS
from nodes.data.transform import Transform
from nodes.errors import DataError
from paramserver.errors import NotReady, UserError

ARRAYS_FILE = "data.npz"

InMemory = Dataset | Sequence[Any]
"""A data set, or arrays: (x, y) or (x, y, x_test, y_test), as an .npz file would hold them."""


def write_arrays(data: InMemory, path: Path) -> dict[str, Any]:
    """Write ``data`` as the .npz file ``path``; return what a recipe says of it, by dotted key.

    A data set's rows are written as a network takes them, for nobody to prepare them again.

    Raises:
        DataError: these are no arrays of numbers.
        UserError: there is such a file already.
        NotReady: the disk is full, or the folder cannot be written to.
    """
    keys: dict[str, Any] = {"data.source": "npz", "data.path": str(path)}
    if isinstance(data, Dataset):
        arrays = _of_dataset(data)
        keys["data.task"], keys["data.standardise"] = data.task, False
        if data.task == "classification":
            keys["data.classes"] = data.outputs
        keys |= {f"data.{one}": 0.0 for one in ("test", "validation") if f"x_{one}" not in arrays}
    else:
        arrays = _checked(data)
    try:
        with path.open("xb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
    except FileExistsError:
        raise UserError(f"{path} is there already: give the run another folder") from None
    except OSError as error:
        path.unlink(missing_ok=True)
        raise NotReady(f"cannot write {path}: {error.strerror}: free some space there") from error
    return keys


def _checked(data: Sequence[Any]) -> dict[str, npt.NDArray[Any]]:
    if not isinstance(data, list | tuple) or len(data) not in (2, 4):
        raise DataError(
            "data: give (x, y), (x, y, x_test, y_test) or a Dataset, "
            f"not {type(data).__name__}"
            + (f" of {len(data)}" if isinstance(data, list | tuple) else "")
        )
    arrays = {}
    for name, given in zip(MEMBERS, data, strict=False):
        try:
            array = np.asarray(given)
        except (TypeError, ValueError) as error:
            raise DataError(f"data: {name} is no array: {error}") from error
        if array.dtype.kind not in "buif":
            raise DataError(
                f"data: {name} holds {array.dtype}, not numbers: number the classes from 0"
            )
        arrays[name] = array
    return arrays


def _of_dataset(data: Dataset) -> dict[str, npt.NDArray[Any]]:
    parts = {
        "": (data.train_x, data.train_y),
        "_test": (data.test_x, data.test_y),
        "_validation": (data.validation_x, data.validation_y),
    }
    arrays: dict[str, npt.NDArray[Any]] = {}
    for part, (x, y) in parts.items():
        if len(x) or not part:
            arrays[f"x{part}"], arrays[f"y{part}"] = _rows(data, x), y
    return arrays


def _rows(data: Dataset, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return features in their own shape; pixels that a reader prepares the same way stay so."""
    if x.dtype == np.uint8 and data.transform != Transform(scale=PIXEL):
        x = data.transform.apply(x)
    return x.reshape(len(x), *data.shape)
