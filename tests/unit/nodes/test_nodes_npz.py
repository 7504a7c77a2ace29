import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nodes.data import DataConfig, Dataset, load_dataset
from nodes.data.arrays import write_arrays
from nodes.errors import DataError
from paramserver.errors import UserError

X = np.arange(60, dtype=np.float64).reshape(20, 3)
Y = np.arange(20) % 4


def load(path: Path, arrays: dict[str, Any], **keys: object) -> Dataset:
    np.savez(path, **arrays)
    return load_dataset(DataConfig.model_validate({"path": path, **keys}))


def fault(path: Path, arrays: dict[str, Any], **keys: object) -> str:
    with pytest.raises(DataError) as caught:
        load(path, arrays, **keys)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "mine.npz"


def test_rows_are_split_by_class(path: Path) -> None:
    data = load(path, {"x": X, "y": Y}, standardise=False)
    assert (len(data.train_x), len(data.test_x), data.outputs) == (16, 4, 4)
    np.testing.assert_array_equal(data.train_x[:, 0] // 3 % 4, data.train_y)


def test_images_are_made_flat_and_stay_pixels(path: Path) -> None:
    pixels = np.arange(20 * 4, dtype=np.uint8).reshape(20, 2, 2)
    data = load(path, {"x": pixels, "y": Y, "x_test": pixels[:5], "y_test": Y[:5]})
    assert (data.shape, data.features, len(data.test_x)) == ((2, 2), 4, 5)
    assert data.train_x.dtype == np.uint8
    x, y = data.buffers(2)
    data.batch(np.array([3, 1]), x, y)
    np.testing.assert_allclose(x, pixels.reshape(20, 4)[[3, 1]] / np.float32(255), rtol=1e-6)
    assert y.tolist() == [3, 1]


def test_column_order_and_byte_order_are_read(path: Path) -> None:
    first = load(path, {"x": np.asfortranarray(X), "y": Y.astype(">i4")}, test=0.0)
    second = load(path, {"x": X, "y": Y}, test=0.0)
    np.testing.assert_array_equal(first.train_x, second.train_x)
    assert first.fingerprint() == second.fingerprint()


def test_a_regression_may_have_several_targets(path: Path) -> None:
    data = load(path, {"x": X, "y": X[:, :2]}, task="regression")
    assert data.outputs == 2
    assert data.train_y.dtype == np.float32


def test_test_rows_from_another_file(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.npz"
    np.savez(other, x=X[:3], y=Y[:3])
    assert len(load(path, {"x": X, "y": Y}, test_path=other).test_x) == 3
    np.savez(other, x=X[:3, :2], y=Y[:3])
    assert "another shape" in fault(path, {"x": X, "y": Y}, test_path=other)


def test_validation_rows_may_be_in_the_file(path: Path) -> None:
    arrays = {"x": X, "y": Y, "x_validation": X[:5], "y_validation": Y[:5]}
    data = load(path, arrays, test=0.5)
    assert (len(data.train_x), len(data.validation_x), len(data.test_x)) == (12, 5, 8)
    np.testing.assert_array_equal(data.validation_y, Y[:5])
    del arrays["y_validation"]
    assert "no array 'y_validation' in it" in fault(path, arrays)


def broken(array: np.ndarray, value: float) -> np.ndarray:
    changed = array.astype(np.float64)
    changed[7] = value
    return changed


@pytest.mark.parametrize(
    ("arrays", "keys", "word"),
    [
        ({"x": X}, {}, "no array 'y' in it"),
        ({"x": X, "y": Y, "x_test": X}, {}, "no array 'y_test' in it"),
        ({"x": X, "y": Y[:5]}, {}, "'y' is [5], but 'x' has 20 rows"),
        ({"x": X[:0], "y": Y[:0]}, {}, "holds no rows"),
        ({"x": np.float64(3), "y": Y}, {}, "holds no rows"),
        ({"x": broken(X, np.nan), "y": Y}, {}, "array 'x', row 7: nan is not a finite float32"),
        ({"x": broken(X, 1e40), "y": Y}, {}, "array 'x', row 7: 1e+40 is not a finite float32"),
        ({"x": X, "y": broken(Y, np.inf)}, {}, "array 'y', row 7: inf is not a finite float32"),
        ({"x": X, "y": broken(Y, 0.5)}, {}, "array 'y', row 7: 0.5 is no class"),
        ({"x": X, "y": broken(Y, -1)}, {}, "array 'y', row 7: label -1.0 is out of range"),
        ({"x": X, "y": Y}, {"classes": 3}, "row 3: label 3 is out of range: there are 3 classes"),
        ({"x": X, "y": X}, {}, "must be [rows]"),
        ({"x": X.astype(str), "y": Y}, {}, "not numbers"),
        ({"x": np.array([{}] * 20), "y": Y}, {}, "array 'x' holds object, not numbers"),
    ],
)
def test_each_fault_is_one_line(
    path: Path, arrays: dict[str, Any], keys: dict[str, object], word: str
) -> None:
    message = fault(path, arrays, **keys)
    assert message.startswith(f"{path}: ")
    assert word in message


def test_a_damaged_file_is_named(path: Path, tmp_path: Path) -> None:
    np.savez(path, x=X, y=Y)
    whole = path.read_bytes()
    for data in (b"", b"not a zip", whole[: len(whole) // 2]):
        path.write_bytes(data)
        with pytest.raises(DataError, match="not a whole"):
            load_dataset(DataConfig(path=path))
    path.write_bytes(whole.replace(X[3].tobytes(), X[4].tobytes()))
    with pytest.raises(DataError, match="not a whole"):
        load_dataset(DataConfig(path=path))
    with pytest.raises(DataError, match="no such file"):
        load_dataset(DataConfig(path=tmp_path / "none.npz"))


def test_a_header_that_promises_too_much_takes_no_memory(path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f8", "fortran_order": False, "shape": (1 << 40,)}
    )
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", header.getvalue() + b"\0" * 64)
        archive.writestr("y.npy", b"nonsense")
    with pytest.raises(DataError, match=r"array 'x' is \[1099511627776\] of float64, but not"):
        load_dataset(DataConfig(path=path))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", b"nonsense")
    with pytest.raises(DataError, match=r"array 'x': not a valid \.npy header"):
        load_dataset(DataConfig(path=path))


def test_a_file_that_is_there_is_not_written_over(path: Path) -> None:
    path.write_text("precious")
    with pytest.raises(UserError, match=rf"{path} is there already: give the run another folder"):
        write_arrays((X, Y), path)
    assert path.read_text() == "precious"
