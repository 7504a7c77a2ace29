from pathlib import Path

import numpy as np
import pytest

from nodes.data import DataConfig, Dataset, load_dataset
from nodes.errors import DataError

PLAIN = "".join(f"{row},{row * 0.5},{row % 3}\n" for row in range(30))
NAMED = "kind,width,height\n" + "".join(f"{'ab'[row % 2]},{row},{-row}\n" for row in range(20))


def load(folder: Path, text: str | bytes, **keys: object) -> Dataset:
    path = folder / "mine.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_dataset(DataConfig.model_validate({"path": path, **keys}))


def fault(folder: Path, text: str | bytes, **keys: object) -> str:
    with pytest.raises(DataError) as caught:
        load(folder, text, **keys)
    message = str(caught.value)
    assert caught.value.exit_code == 2
    assert len(message.splitlines()) == 1
    return message.removeprefix(f"{folder / 'mine.csv'}: ")


def test_a_plain_file_with_the_label_last(tmp_path: Path) -> None:
    data = load(tmp_path, PLAIN, standardise=False)
    assert (data.name, data.task, data.outputs, data.features) == ("mine", "classification", 3, 2)
    assert (len(data.train_x), len(data.test_x)) == (24, 6)
    assert data.train_x.dtype == np.float32
    assert data.train_y.dtype == np.int32
    np.testing.assert_array_equal(data.train_x[:, 0] % 3, data.train_y)
    np.testing.assert_array_equal(data.train_x[:, 1], data.train_x[:, 0] * 0.5)


def test_a_header_and_a_label_by_name(tmp_path: Path) -> None:
    data = load(tmp_path, "\ufeff" + NAMED, label="kind", standardise=False)
    assert data.class_names == ("a", "b")
    assert data.features == 2
    np.testing.assert_array_equal(data.train_x[:, 0] % 2, data.train_y)


@pytest.mark.parametrize("label", [0, -3])
def test_a_label_by_index_and_a_header_found(tmp_path: Path, label: int) -> None:
    data = load(tmp_path, NAMED, label=label)
    assert len(data.train_x) + len(data.test_x) == 20


def test_standardised_features_have_mean_0_and_variance_1(tmp_path: Path) -> None:
    data = load(tmp_path, PLAIN)
    np.testing.assert_allclose(data.train_x.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(data.train_x.std(axis=0), 1, atol=1e-6)


def test_a_constant_feature_stays_finite(tmp_path: Path) -> None:
    data = load(tmp_path, "7,1,0\n7,2,1\n7,3,0\n7,4,1\n", test=0.0)
    assert np.all(data.train_x[:, 0] == 0)
    assert len(data.test_x) == 0


def test_classes_are_numbered_in_order(tmp_path: Path) -> None:
    text = "".join(f"{row},{label}\n" for row, label in enumerate([10, 9, 30, 9] * 5))
    data = load(tmp_path, text)
    assert data.class_names == ("9", "10", "30")
    assert load(tmp_path, text, classes=31).outputs == 31


def test_a_regression(tmp_path: Path) -> None:
    data = load(tmp_path, PLAIN, task="regression", label=1, standardise=False)
    assert data.train_y.shape == (24, 1)
    assert data.train_y.dtype == np.float32
    np.testing.assert_array_equal(data.train_y[:, 0], data.train_x[:, 0] * 0.5)


def test_a_test_file_of_its_own(tmp_path: Path) -> None:
    other = tmp_path / "test.csv"
    other.write_text("1,2,2\n3,4,0\n")
    data = load(tmp_path, PLAIN, test_path=other, standardise=False)
    assert (len(data.train_x), len(data.test_x)) == (30, 2)
    assert data.test_y.tolist() == [2, 0]
    other.write_text("1,2,2\n3,4,5\n")
    with pytest.raises(DataError, match=r"test\.csv: line 2: label '5' is none of the 3 classes"):
        load(tmp_path, PLAIN, test_path=other)
    other.write_text("1,2\n")
    with pytest.raises(DataError, match=r"test\.csv: 2 columns instead of 3"):
        load(tmp_path, PLAIN, test_path=other)


@pytest.mark.parametrize(
    ("text", "keys", "message"),
    [
        ("", {}, "holds no rows"),
        ("a,b,c\n", {}, "holds a header and no rows"),
        ("1;2;0\n", {}, "line 1: only one column: are the values separated by commas?"),
        (PLAIN + "1,2\n", {}, "line 31: 2 columns instead of 3"),
        (PLAIN + "\n1,2,3,4\n", {}, "line 32: 4 columns instead of 3"),
        (PLAIN + "1,x,0\n", {}, "line 31: column 1 is 'x', not a number"),
        (PLAIN + "1,,0\n", {}, "line 31: column 1 is empty, not a number"),
        (PLAIN + "nan,1,0\n", {}, "line 31: column 0 is nan, not a finite float32"),
        (PLAIN + "1,inf,0\n", {}, "line 31: column 1 is inf, not a finite float32"),
        (PLAIN + "1,1e39,0\n", {}, "line 31: column 1 is 1e+39, not a finite float32"),
        (
            NAMED + "a,1,nan\n",
            {"label": 0},
            "line 22: column 'height' is nan, not a finite float32",
        ),
        (NAMED + "a,?,1\n", {"label": 0}, "line 22: column 'width' is '?', not a number"),
        (NAMED, {"label": "knd"}, "no column named 'knd' (did you mean 'kind'?)"),
        (NAMED, {"label": "zzz"}, "no column named 'zzz'"),
        (PLAIN, {"label": 3}, "has 3 columns, none with the index 3 that data.label names"),
        (PLAIN, {"classes": 2}, "line 3: label '2' is none of the 2 classes (0, 1)"),
        (NAMED + "c,1,1\n", {"label": 0, "classes": 2}, None),
        (PLAIN + "1,2,\n", {}, "line 31: the label is empty"),
        (PLAIN + "1,2,0.5\n", {}, None),
        (PLAIN + "1,2,nan\n", {}, None),
        ("1,2,0\n1,3,0\n", {}, None),
        ("".join(f"{n},{n}\n" for n in range(1500)), {}, None),
        (PLAIN + "1,2,x\n", {"task": "regression"}, None),
        (PLAIN + "1,2,nan\n", {"task": "regression"}, None),
        (b"1,2,0\n\xff,1,1\n", {}, None),
        ('1,"2,0\n', {}, None),
        (PLAIN, {"label": "kind", "header": False}, None),
        ("1,0\n", {"test": 0.9, "classes": 2}, None),
    ],
)
def test_each_fault_is_one_line(
    tmp_path: Path, text: str | bytes, keys: dict[str, object], message: str | None
) -> None:
    found = fault(tmp_path, text, **keys)
    assert message in (None, found)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.csv: no such file"):
        load_dataset(DataConfig(path=tmp_path / "none.csv"))
    folder = tmp_path / "folder.csv"
    folder.mkdir()
    with pytest.raises(DataError, match="cannot be read"):
        load_dataset(DataConfig(path=folder))
