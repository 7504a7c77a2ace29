"""The data sets known by name, and the way from a recipe's ``data`` section to a data set."""

from __future__ import annotations

import gzip
import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np

from nodes.data.config import DataConfig
from nodes.data.csvfile import load_csv
from nodes.data.dataset import PIXEL, Dataset
from nodes.data.mnist import load_mnist
from nodes.data.npzfile import load_npz
from nodes.data.prepare import Rows, assemble, split
from nodes.errors import DataError

LEVEL = 1.0 / 16.0


def load_dataset(config: DataConfig) -> Dataset:
    """Read and check the data that a recipe names.

    Raises DataError, one line that names the file, and the line or row where there is one.
    """
    return _SOURCES[config.kind](config)


def _bundled(name: str) -> Path:
    """Return a file of scikit-learn's bundled data, without importing it: that takes a second."""
    spec = importlib.util.find_spec("sklearn")
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        path = Path(folder, "datasets", "data", name)
        if path.is_file():
            return path
    raise DataError(f"scikit-learn's {name} is not installed: pip install scikit-learn brings it")


def _load_digits(config: DataConfig) -> Dataset:
    """Read the 1,797 images of 8 by 8 handwritten digits (UCI, Alpaydin and Kaynak 1998)."""
    with gzip.open(_bundled("digits.csv.gz"), "rt", encoding="ascii") as file:
        values = np.loadtxt(file, delimiter=",", dtype=np.uint8)
    rows = Rows(values[:, :-1], values[:, -1].astype(np.int32))
    return _classification("digits", rows, config, shape=(8, 8), scale=LEVEL)


def _load_iris(config: DataConfig) -> Dataset:
    """Read Fisher's 150 irises (1936): four lengths, three species."""
    path = _bundled("iris.csv")
    with path.open(encoding="ascii") as file:
        names = tuple(file.readline().strip().split(",")[2:])
        values = np.loadtxt(file, delimiter=",", dtype=np.float64)
    rows = Rows(values[:, :-1], values[:, -1].astype(np.int32))
    return _classification("iris", rows, config, shape=(4,), names=names)


def _classification(
    name: str,
    rows: Rows,
    config: DataConfig,
    *,
    shape: tuple[int, ...],
    names: tuple[str, ...] = (),
    scale: float = PIXEL,
) -> Dataset:
    train, test = split(rows, "classification", config.test)
    return assemble(
        name,
        "classification",
        train,
        test,
        outputs=int(rows.y.max()) + 1,
        shape=shape,
        standardise=config.standardise,
        class_names=names,
        validation=config.validation,
        scale=scale,
    )


_SOURCES: dict[str, Callable[[DataConfig], Dataset]] = {
    "digits": _load_digits,
    "iris": _load_iris,
    "mnist": load_mnist,
    "csv": load_csv,
    "npz": load_npz,
}
