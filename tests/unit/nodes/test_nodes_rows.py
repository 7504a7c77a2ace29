"""Rows for a trained model, in each form that a person may bring them."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from nodes.data import Schema
from nodes.data.csvtable import Columns
from nodes.data.rows import read_features, read_labelled
from nodes.errors import DataError

SCHEMA = Schema("classification", (2, 2), 3, ("red", "green", "blue"))
NUMBERED = Schema("classification", (2, 2), 3, ("7", "8", "10"))
NUMBERS = Schema("regression", (2, 2), 1)
X = np.arange(12.0).reshape(3, 4)
LAST = Columns()


def lines(*rows: object) -> str:
    return "".join(f"{row}\n" for row in rows)


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        (lines("0,1,2,3", "4,5,6,7", "8,9,10,11"), LAST),
        (lines("0,1,2,3,?", "4,5,6,7,?", "8,9,10,11,?"), LAST),
        (lines("?,0,1,2,3", "?,4,5,6,7", "?,8,9,10,11"), Columns(label=0)),
        (lines("a,b,k,c,d", "0,1,?,2,3", "4,5,?,6,7", "8,9,?,10,11"), Columns(label="k")),
        (lines("a,b,c,d", "0,1,2,3", "4,5,6,7", "8,9,10,11"), Columns(label="k")),
        (lines("1,2,3,4", "0,1,2,3", "4,5,6,7", "8,9,10,11"), Columns(header=True)),
    ],
)
def test_a_csv_may_have_its_label_or_not(tmp_path: Path, text: str, columns: Columns) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(text)
    np.testing.assert_array_equal(read_features(path, SCHEMA, columns), X)


def test_arrays_are_made_flat(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X.reshape(3, 2, 2))
    np.savez(tmp_path / "x.npz", x=X.astype(np.uint8))
    for name in ("x.npy", "x.npz"):
        np.testing.assert_array_equal(read_features(tmp_path / name, SCHEMA, LAST), X)


@pytest.mark.parametrize(
    ("schema", "labels"),
    [
        (SCHEMA, ["blue", " red ", "green"]),
        (SCHEMA, [2, 0, 1]),
        (NUMBERED, [10, 7.0, 8]),
        (Schema("classification", (4,), 3), [2, 0, 1]),
    ],
)
def test_a_label_is_a_class_s_name_or_its_number(
    tmp_path: Path, schema: Schema, labels: list[object]
) -> None:
    path = tmp_path / "rows.csv"
    text = zip(X.tolist(), labels, strict=True)
    path.write_text(lines(*(",".join(map(str, [*row, label])) for row, label in text)))
    rows = read_labelled(path, schema, LAST)
    assert (rows.y.tolist(), rows.y.dtype) == ([2, 0, 1], np.int32)
    if not isinstance(labels[0], str):
        np.savez(tmp_path / "rows.npz", x=X, y=np.array(labels))
        again = read_labelled(tmp_path / "rows.npz", schema, LAST)
        assert again.y.tolist() == [2, 0, 1]


def test_idx_images_have_their_labels_beside_them(tmp_path: Path) -> None:
    images = struct.pack(">HBB3I", 0, 8, 3, 3, 2, 2) + X.astype(np.uint8).tobytes()
    path = tmp_path / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(images))
    labels = struct.pack(">HBBI", 0, 8, 1, 3) + bytes([10, 7, 8])
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(labels)
    for place in (path, tmp_path):
        rows = read_labelled(place, NUMBERED, LAST)
        np.testing.assert_array_equal(rows.x, X)
        assert rows.y.tolist() == [2, 0, 1]
        np.testing.assert_array_equal(read_features(place, NUMBERED, LAST), X)


def test_targets(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(lines("0,1,2,3,0.5", "4,5,6,7,-1"))
    assert read_labelled(path, NUMBERS, LAST).y.tolist() == [[0.5], [-1.0]]
    np.savez(tmp_path / "rows.npz", x=X, y=np.ones((3, 2)))
    with pytest.raises(DataError, match="'y' has 2 targets, but the model has 1"):
        read_labelled(tmp_path / "rows.npz", NUMBERS, LAST)
    with pytest.raises(DataError, match="has one target, but the model has 2"):
        read_labelled(path, Schema("regression", (4,), 2), LAST)


@pytest.mark.parametrize(
    ("name", "content", "schema", "says"),
    [
        ("r.csv", "1,2,3\n", SCHEMA, "line 1: 3 columns, but the model takes 4 features"),
        ("r.csv", "1,2,3,4\n", SCHEMA, "4 columns, all of them features"),
        ("r.csv", "1,2,3,4,red\n1,2,3,4,pink\n", SCHEMA, "line 2: label 'pink' is none of the 3"),
        ("r.csv", "1,2,3,4,0\n", NUMBERED, "line 1: label '0' is none of the 3 classes (7, 8, 10)"),
        ("r.csv", "1,nan,3,4,red\n", SCHEMA, "line 1: column 1 is nan, not a finite float32"),
        ("r.npy", X, SCHEMA, "holds no labels"),
        ("r.npz", {"x": X}, SCHEMA, "no array 'y' in it"),
        ("r.npz", {"y": X}, SCHEMA, "no array 'x' in it"),
        ("r.npz", {"x": X[:, :3], "y": [0, 1, 2]}, SCHEMA, "'x' has 3 features a row"),
        ("r.npz", {"x": X, "y": [0, 1]}, SCHEMA, "'y' is [2], but there are 3 rows"),
        ("r.npz", {"x": X, "y": [0, 1, 3]}, SCHEMA, "'y', row 2: label 3 is none of the 3"),
        ("r.npz", {"x": X, "y": [0, 1, 1.5]}, SCHEMA, "'y', row 2: 1.5 is no class"),
        ("r.npz", "PK", SCHEMA, "not a whole .npz file"),
        ("r.txt", "1 2 3 4\n" * 9, SCHEMA, "not an IDX file"),
    ],
)
def test_each_fault_is_one_line(
    tmp_path: Path, name: str, content: object, schema: Schema, says: str
) -> None:
    path = tmp_path / name
    if isinstance(content, dict):
        np.savez(path, **content)
    elif isinstance(content, np.ndarray):
        np.save(path, content)
    else:
        path.write_text(str(content))
    with pytest.raises(DataError) as caught:
        read_labelled(path, schema, LAST)
    assert str(caught.value).startswith(str(path))
    assert says in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["no.csv", "no.npz", "no.npy", "no", "."])
def test_what_is_not_there_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="no such file|no IDX file of images"):
        read_features(tmp_path / name, SCHEMA, LAST)


def test_a_damaged_npy_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, X)
    whole = path.read_bytes()
    for data, says in (
        (whole[:-8], "but not so long"),
        (b"nonsense", "not a valid .npy header"),
        (b"", "not a valid .npy header"),
    ):
        path.write_bytes(data)
        with pytest.raises(DataError) as caught:
            read_features(path, SCHEMA, LAST)
        assert says in str(caught.value)
