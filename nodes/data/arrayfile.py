"""Read a person's .npz and .npy files; nothing in them is ever unpickled."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from nodes.errors import DataError


def read_npz(path: Path, names: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
    """Read those of the arrays ``names`` that a file has.

    Raises DataError, one line with file and array, where it is missing, damaged or holds no numbers.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            there = set(archive.namelist())
            return {name: _member(path, name, archive) for name in names if f"{name}.npy" in there}
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise DataError(f"{path}: not a whole .npz file: {error}") from None


def read_npy(path: Path) -> npt.NDArray[Any]:
    """Read a file that holds one array; errors as in `read_npz`."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            return _array(file, size, str(path))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None


def _member(path: Path, name: str, archive: zipfile.ZipFile) -> npt.NDArray[Any]:
    info = archive.getinfo(f"{name}.npy")
    with archive.open(info) as file:
        return _array(file, info.file_size, f"{path}: array {name!r}")


def _array(file: IO[bytes], size: int, what: str) -> npt.NDArray[Any]:
    """Read one array; its header is checked against its size before memory is taken."""
    try:
        shape, fortran, dtype = _header(file)
    except ValueError as error:
        raise DataError(f"{what}: not a valid .npy header: {error}") from None
    if dtype.kind not in "buif":
        raise DataError(f"{what} holds {dtype}, not numbers")
    if math.prod(shape) * dtype.itemsize != size - file.tell():
        raise DataError(f"{what} is {list(shape)} of {dtype}, but not so long")
    flat = np.frombuffer(file.read(), dtype)
    return flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape)


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(file)
    raise ValueError(f"version {version} is unknown")
