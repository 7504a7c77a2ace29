import gzip
import hashlib
import http.server
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from nodes.data import DataConfig, load_dataset
from nodes.data import mnist as mnist_module
from nodes.data.idx import read_idx
from nodes.errors import DataError


def idx(array: np.ndarray) -> bytes:
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    return header + array.astype(np.uint8).tobytes()


def small() -> dict[str, bytes]:
    rng = np.random.default_rng(0)
    files = {}
    for part, rows in (("train", 20), ("t10k", 5)):
        files[f"{part}-images-idx3-ubyte"] = idx(rng.integers(0, 256, (rows, 4, 3)))
        files[f"{part}-labels-idx1-ubyte"] = idx(np.arange(rows) % 10)
    return files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "mnist"
    place.mkdir()
    for name, data in small().items():
        (place / name).write_bytes(data)
    return place


def test_a_folder_is_read_raw_or_gzipped(folder: Path) -> None:
    raw = load_dataset(DataConfig(source="mnist", path=folder))
    assert (len(raw.train_x), len(raw.test_x), raw.shape, raw.outputs) == (20, 5, (4, 3), 10)
    for path in folder.iterdir():
        Path(f"{path}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    zipped = load_dataset(DataConfig(source="mnist", root=folder.parent))
    assert zipped.fingerprint() == raw.fingerprint()


def test_validation_images_have_their_labels_beside_them(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    images = other / "mine.images.idx3-ubyte"
    images.write_bytes(small()["train-images-idx3-ubyte"])
    config = DataConfig(source="mnist", path=folder, validation_path=other)
    with pytest.raises(DataError, match=r"no labels beside it, in mine\.labels\.idx1-ubyte"):
        load_dataset(config)
    labels = gzip.compress(small()["train-labels-idx1-ubyte"])
    (other / "mine.labels.idx1-ubyte.gz").write_bytes(labels)
    for path in (other, images):
        data = load_dataset(config.model_copy(update={"validation_path": path}))
        np.testing.assert_array_equal(data.validation_x, data.train_x)
        np.testing.assert_array_equal(data.validation_y, data.train_y)
    # MNIST's own folder has two files of images: the test images are meant.
    data = load_dataset(config.model_copy(update={"validation_path": folder}))
    np.testing.assert_array_equal(data.validation_x, data.test_x)
    images.write_bytes(idx(np.zeros((20, 3, 3))))
    with pytest.raises(DataError, match="of another size than the training images"):
        load_dataset(config)
    (other / "other.images.idx3-ubyte").write_bytes(b"")
    with pytest.raises(DataError, match="several IDX files of images"):
        load_dataset(config)


def truncated(data: bytes) -> bytes:
    return data[:-7]


@pytest.mark.parametrize(
    ("name", "change", "word"),
    [
        ("train-images-idx3-ubyte", lambda _: b"", "truncated: 0 bytes, shorter than its header"),
        ("train-images-idx3-ubyte", truncated, "truncated: its header says 240 bytes"),
        ("train-images-idx3-ubyte", lambda data: data + b"x", "damaged: longer than the 240 bytes"),
        ("train-images-idx3-ubyte", lambda data: b"PNG!" + data[4:], "not an IDX file"),
        ("train-images-idx3-ubyte", lambda data: b"\0\0\x0d\x03" + data[4:], "not an IDX file"),
        ("train-labels-idx1-ubyte", lambda _: idx(np.arange(19) % 10), "but 19 labels beside it"),
        ("train-labels-idx1-ubyte", lambda _: idx(np.full(20, 10)), "label 10 of image 0"),
        ("t10k-images-idx3-ubyte", lambda _: idx(np.zeros((5, 3, 3))), "differ in size"),
        (
            "train-images-idx3-ubyte",
            lambda _: struct.pack(">HBB3I", 0, 8, 3, 60000, 28, 28) + b"x",
            "truncated: its header says 47040000 bytes, more than it can hold",
        ),
        (
            "train-images-idx3-ubyte",
            lambda _: struct.pack(">HBB3I", 0, 8, 3, *[2**32 - 1] * 3),
            "over 4 GiB",
        ),
    ],
)
def test_a_damaged_file_is_one_line(folder: Path, name: str, change: object, word: str) -> None:
    path = folder / name
    assert callable(change)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(DataError) as caught:
        load_dataset(DataConfig(source="mnist", path=folder))
    assert word in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("cut", "word"),
    [
        (lambda data: data[:-10], "truncated"),
        (lambda data: data[: len(data) // 2], "truncated"),
        (lambda data: b"no" + data[2:], "damaged"),
        (lambda data: data[:40] + b"\xff\xff\xff" + data[43:], "damaged"),
        (lambda data: gzip.compress(gzip.decompress(data)[:100]), "truncated: 84 of 240 bytes"),
    ],
)
def test_a_damaged_archive_is_one_line(folder: Path, cut: object, word: str) -> None:
    path = folder / "train-images-idx3-ubyte"
    archive = Path(f"{path}.gz")
    assert callable(cut)
    archive.write_bytes(cut(gzip.compress(path.read_bytes())))
    with pytest.raises(DataError) as caught:
        read_idx(archive, 3)
    assert str(caught.value).startswith(f"{archive}: {word}")


def test_a_missing_file_names_all_four(folder: Path) -> None:
    (folder / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte: no such file, with or without"):
        load_dataset(DataConfig(source="mnist", path=folder))


# Download: a mirror on loopback stands for the real ones, with checksums of its own


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    place = tmp_path / "mirror"
    place.mkdir()
    files = small()
    for name, data in files.items():
        (place / f"{name}.gz").write_bytes(gzip.compress(data))
    checksums = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    monkeypatch.setattr(mnist_module, "CHECKSUMS", checksums)

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(place))  # type: ignore[arg-type]

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()
        thread.join(5)


def test_a_download_is_kept(tmp_path: Path, mirror: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setattr(mnist_module, "cache_folder", lambda: cache)
    monkeypatch.setattr(mnist_module, "MIRRORS", (mirror,))
    assert mnist_module.download(cache, (mirror,)) == cache
    assert sorted(path.name for path in cache.iterdir()) == sorted(small())
    assert mnist_module.download(cache, ()) == cache
    assert len(load_dataset(DataConfig(source="mnist")).train_x) == 20


def test_a_whole_download_need_not_be_written_again(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "paramserver" / "mnist"
    kept.parent.mkdir()
    folder.rename(kept)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(mnist_module, "user_folder", lambda *_: tmp_path / "elsewhere")
    assert mnist_module.cache_folder() == kept
    next(kept.iterdir()).unlink()
    assert mnist_module.cache_folder() == tmp_path / "elsewhere"


def test_a_mirror_with_other_content_is_refused_and_the_next_asked(
    tmp_path: Path, mirror: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = dict.fromkeys(small(), "0" * 64)
    monkeypatch.setattr(mnist_module, "CHECKSUMS", wrong)
    with pytest.raises(DataError, match="another checksum") as caught:
        mnist_module.download(tmp_path / "cache", (mirror,))
    assert "data.path" in str(caught.value)
    assert not list((tmp_path / "cache").iterdir())


def test_a_mirror_that_fails_is_followed_by_the_next(tmp_path: Path, mirror: str) -> None:
    cache = mnist_module.download(tmp_path / "cache", (f"{mirror}none/", mirror))
    assert len(list(cache.iterdir())) == 4


def test_no_network_is_one_line_that_names_both_ways(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{unused.getsockname()[1]}/"
        with pytest.raises(DataError) as caught:
            mnist_module.download(tmp_path / "cache", (closed, closed))
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert "set data.path (or PARAMSERVER_DATA" in message
    assert "or download it" in message
    assert "cannot be reached" in message


def test_a_silent_mirror_is_given_up(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        start = time.monotonic()
        with pytest.raises(DataError, match=r"silent for 0\.3 s|no answer in time"):
            mnist_module.download(tmp_path / "cache", (address,), patience=0.3)
        assert time.monotonic() - start < 5


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        mnist_module.download(tmp_path / "file" / "cache", ("http://127.0.0.1:1/",))


def test_real_mnist_has_the_published_checksums(mnist_folder: Path) -> None:
    data = load_dataset(DataConfig(source="mnist", path=mnist_folder))
    assert (len(data.train_x), len(data.test_x)) == (60_000, 10_000)
    assert data.shape == (28, 28)
    labels = idx(data.test_y)
    checksum = mnist_module.CHECKSUMS["t10k-labels-idx1-ubyte"]
    assert hashlib.sha256(labels).hexdigest() == checksum
    images = idx(data.train_x.reshape(-1, 28, 28))
    checksum = mnist_module.CHECKSUMS["train-images-idx3-ubyte"]
    assert hashlib.sha256(images).hexdigest() == checksum
