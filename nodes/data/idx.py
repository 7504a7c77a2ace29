"""Read IDX files, the format of MNIST, gzipped or not.

Source: Y. LeCun, "The MNIST database of handwritten digits": a magic number (two zero bytes, a
type, the number of dimensions), big-endian 32-bit extents, then the elements.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from io import BufferedReader
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nodes.errors import DataError

UNSIGNED_BYTES = 0x08
LARGEST = 4 << 30
# What deflate can at best make of one byte (zlib's "technical details").
BEST_RATIO = 1032


def read_idx(path: Path, dimensions: int) -> npt.NDArray[np.uint8]:
    """Read a file of unsigned bytes with that many dimensions.

    The header is checked, and its size against the file's, before memory is taken. Raises
    DataError, one line that names the file, also where it is truncated or longer than it says.
    """
    gzipped = path.suffix == ".gz"
    try:
        size = path.stat().st_size
        with gzip.open(path) if gzipped else path.open("rb") as file:
            return _read(file, path, dimensions, size * BEST_RATIO if gzipped else size)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except EOFError:
        raise DataError(f"{path}: truncated: its gzip stream ends too early") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: damaged: {error}") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None


def images_at(path: Path) -> Path:
    """Return the file of images that a path names: itself, or where it is a folder, the one in it.

    MNIST's own folder has two; its test images are meant.
    """
    if not path.is_dir():
        return path
    found = sorted(one for one in path.iterdir() if "images" in one.name and "idx3" in one.name)
    found = [one for one in found if one.name.startswith("t10k")] or found
    if not found:
        raise DataError(f"{path}: no IDX file of images in it, such as t10k-images-idx3-ubyte")
    if len({one.name.removesuffix(".gz") for one in found}) > 1:
        raise DataError(f"{path}: several IDX files of images in it: name one")
    return found[0]


def labels_beside(images: Path) -> Path:
    """Return the file of labels that belongs to a file of images by its name."""
    name = images.name.removesuffix(".gz").replace("images", "labels").replace("idx3", "idx1")
    for path in (images.with_name(name), images.with_name(f"{name}.gz")):
        if path != images and path.is_file():
            return path
    raise DataError(f"{images}: no labels beside it, in {name} or {name}.gz")


def _read(
    file: BufferedReader | gzip.GzipFile, path: Path, dimensions: int, most: int
) -> npt.NDArray[np.uint8]:
    length = 4 + 4 * dimensions
    header = file.read(length)
    if len(header) < length:
        raise DataError(f"{path}: truncated: {len(header)} bytes, shorter than its header")
    zeros, kind, count = struct.unpack(">HBB", header[:4])
    if zeros or kind != UNSIGNED_BYTES or count != dimensions:
        raise DataError(
            f"{path}: not an IDX file of unsigned bytes with {dimensions} dimensions "
            f"(it starts with {header[:4].hex()})"
        )
    shape = struct.unpack(f">{dimensions}I", header[4:])
    total = math.prod(shape)
    if total > LARGEST:
        raise DataError(f"{path}: its header says {total} bytes, over {LARGEST >> 30} GiB")
    if total + length > most:
        raise DataError(f"{path}: truncated: its header says {total} bytes, more than it can hold")
    values = np.empty(total, np.uint8)
    filled, rest = 0, values.data
    while filled < total:
        got = file.readinto(rest[filled:])
        if not got:
            raise DataError(f"{path}: truncated: {filled} of {total} bytes")
        filled += got
    if file.read(1):
        raise DataError(f"{path}: damaged: longer than the {total} bytes that its header says")
    return values.reshape(shape)
