"""MNIST: from a folder, or by download with checksums into the user's cache."""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kernels.device.cache import user_folder, wanted_folder
from nodes.data.config import DataConfig
from nodes.data.dataset import Dataset
from nodes.data.idx import images_at, labels_beside, read_idx
from nodes.data.prepare import Rows, assemble
from nodes.errors import DataError

MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
# SHA-256 of the published files, unzipped: archives may differ between mirrors, content may not.
CHECKSUMS = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
CLASSES = 10
# Seconds without a byte after which a mirror is given up: two of them stay below 20 s.
PATIENCE = 8.0

_log = logging.getLogger(__name__)


def load_mnist(config: DataConfig) -> Dataset:
    """Read MNIST from ``data.path``, else from ``data.root``, else from the cache or by download.

    Raises DataError: one line where a file is damaged or does not fit the others, or that names
    both ways to get the data where there is neither folder nor network.
    """
    folder = config.path
    if folder is None and config.root is not None and (config.root / "mnist").is_dir():
        folder = config.root / "mnist"
    if folder is None:
        folder = download(cache_folder())
    train = _pair(folder, "train")
    test = _pair(folder, "t10k")
    if train.x.shape[1:] != test.x.shape[1:]:
        raise DataError(f"{folder}: training and test images differ in size")
    validation = None
    if config.validation_path is not None:
        images = images_at(config.validation_path)
        validation = _read(images, labels_beside(images))
        if train.x.shape[1:] != validation.x.shape[1:]:
            raise DataError(f"{images}: of another size than the training images")
    shape = tuple(train.x.shape[1:])
    return assemble(
        "mnist",
        "classification",
        _flat(train),
        _flat(test),
        outputs=CLASSES,
        shape=shape,
        standardise=False,
        validation=_flat(validation) if validation is not None else config.validation,
    )


def cache_folder() -> Path:
    """Return where downloads lie, or are to lie, for this user.

    Raises NoFolder if they have yet to come and no folder can be written.
    """
    kept = wanted_folder("cache", "mnist")
    if kept is not None and all((kept / name).is_file() for name in CHECKSUMS):
        return kept  # it need not be written
    return user_folder("cache", "mnist")


def _pair(folder: Path, part: str) -> Rows:
    return _read(
        _find(folder, f"{part}-images-idx3-ubyte"), _find(folder, f"{part}-labels-idx1-ubyte")
    )


def _read(images_path: Path, labels_path: Path) -> Rows:
    images, labels = read_idx(images_path, 3), read_idx(labels_path, 1)
    if len(images) != len(labels) or not images.size:
        raise DataError(f"{images_path}: {len(images)} images, but {len(labels)} labels beside it")
    beyond = np.flatnonzero(labels >= CLASSES)
    if len(beyond):
        raise DataError(
            f"{labels_path}: label {labels[beyond[0]]} of image {beyond[0]} is out of range: "
            f"there are {CLASSES} classes, from 0"
        )
    return Rows(images, labels.astype(np.int32))


def _flat(rows: Rows) -> Rows:
    return Rows(rows.x.reshape(len(rows.x), -1), rows.y)


def _find(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise DataError(
        f"{folder / name}: no such file, with or without .gz: point data.path at a folder with "
        f"MNIST's four files ({', '.join(CHECKSUMS)}), or leave it out to download them"
    )


# Download


class _Activity:
    """What pooch takes for a progress bar; it notes when the last bytes came."""

    def __init__(self) -> None:
        self.total = 0
        self.last = time.monotonic()

    def update(self, _size: int) -> None:
        self.last = time.monotonic()

    def reset(self) -> None:
        self.last = time.monotonic()

    def close(self) -> None:
        self.last = time.monotonic()


def download(cache: Path, mirrors: tuple[str, ...] = MIRRORS, patience: float = PATIENCE) -> Path:
    """Fetch what is missing in ``cache`` and return it; files are checked before they get there.

    A mirror that is silent for ``patience`` seconds is given up. Raises DataError with one line
    that names both ways to get the data.
    """
    left = list(mirrors)
    troubles: list[str] = []
    for name, checksum in CHECKSUMS.items():
        if (cache / name).is_file():
            continue
        while left:
            try:
                _fetch(left[0], name, checksum, cache, patience)
                break
            except DataError as error:
                troubles.append(str(error))
                left.pop(0)
        else:
            raise DataError(
                f"no MNIST here: set data.path (or PARAMSERVER_DATA, with a folder mnist in it) to "
                f"a folder with {', '.join(CHECKSUMS)}, gzipped or not; or download it by starting "
                f"once where the network reaches a mirror ({'; '.join(troubles)})"
            )
    return cache


def _fetch(mirror: str, name: str, checksum: str, cache: Path, patience: float) -> None:
    host = mirror.split("/")[2]
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix=".download-") as folder:
            archive = Path(folder) / f"{name}.gz"
            _retrieve(f"{mirror}{name}.gz", host, archive, patience)
            dimensions = 3 if "images" in name else 1
            values = read_idx(archive, dimensions)
            raw = _header(values) + values.tobytes()
            if hashlib.sha256(raw).hexdigest() != checksum:
                raise DataError(f"{host}: {name} has another checksum than MNIST's")
            whole = Path(folder) / name
            whole.write_bytes(raw)
            os.replace(whole, cache / name)
    except OSError as error:
        raise DataError(f"{cache}: cannot be written: {error.strerror}") from None
    _log.info("downloaded %s from %s to %s", name, host, cache)


def _header(values: npt.NDArray[np.uint8]) -> bytes:
    """Return the IDX header of an array; the published files have no other."""
    extents = np.array(values.shape, ">u4").tobytes()
    return bytes((0, 0, 0x08, values.ndim)) + extents


def _retrieve(url: str, host: str, target: Path, patience: float) -> None:
    """Download in a thread of its own, because name resolution knows no deadline."""
    import pooch
    import requests

    activity = _Activity()
    done = threading.Event()
    failures: list[str] = []

    def work() -> None:
        downloader = pooch.HTTPDownloader(progressbar=activity, timeout=patience)
        try:
            downloader(url, str(target), None)
        except (requests.RequestException, ValueError, OSError) as error:
            failures.append(_reason(error))
        finally:
            done.set()

    # A daemon, so that a resolver that hangs does not keep the process.
    threading.Thread(target=work, name="download", daemon=True).start()
    while not done.wait(min(0.1, patience)):
        if time.monotonic() - activity.last > patience:
            raise DataError(f"{host}: silent for {patience:g} s")
    if failures:
        raise DataError(f"{host}: {failures[0]}")


def _reason(error: Exception) -> str:
    """Say shortly what went wrong; requests' own texts nest several errors."""
    import requests

    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"answered {error.response.status_code}"
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    if isinstance(error, requests.ConnectionError):
        return "cannot be reached"
    return type(error).__name__
