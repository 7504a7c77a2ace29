import subprocess
import sys

import numpy as np
import pytest
from pydantic import ValidationError
from sklearn.datasets import load_digits, load_iris

from nodes.data import DataConfig, load_dataset


def test_digits_are_scikit_learns() -> None:
    data = load_dataset(DataConfig(source="digits"))
    images, labels = load_digits(return_X_y=True)
    assert (len(data.train_x), len(data.test_x)) == (1438, 359)
    assert (data.shape, data.outputs, data.scale) == ((8, 8), 10, 1 / 16)
    ours = np.concatenate([data.train_x, data.test_x])
    assert sorted(map(tuple, ours.tolist())) == sorted(map(tuple, images.tolist()))
    shares = np.bincount(data.test_y) / np.bincount(labels)
    np.testing.assert_allclose(shares, 0.2, atol=0.005)


def test_irises_are_scikit_learns() -> None:
    data = load_dataset(DataConfig(source="iris", standardise=False))
    rows, labels = load_iris(return_X_y=True)
    assert (len(data.train_x), len(data.test_x), data.outputs) == (120, 30, 3)
    assert data.class_names == ("setosa", "versicolor", "virginica")
    assert np.bincount(data.test_y).tolist() == [10, 10, 10]
    ours = np.concatenate([data.train_x, data.test_x])
    np.testing.assert_allclose(np.sort(ours, axis=0), np.sort(rows, axis=0), rtol=1e-6)
    np.testing.assert_array_equal(
        np.sort(np.concatenate([data.train_y, data.test_y])), np.sort(labels)
    )


def test_scikit_learn_is_not_imported() -> None:
    """Its import takes a second, in every peer."""
    code = (
        "import sys; from nodes.data import DataConfig, load_dataset; "
        "load_dataset(DataConfig(source='digits')); load_dataset(DataConfig(source='iris')); "
        "sys.exit('sklearn' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_batch_is_copied_into_place() -> None:
    data = load_dataset(DataConfig(source="digits"))
    x, y = data.buffers(8)
    rows = np.array([5, 0, 700])
    data.batch(rows, x[:3], y[:3])
    np.testing.assert_array_equal(x[:3] * 16, data.train_x[rows])
    np.testing.assert_array_equal(y[:3], data.train_y[rows])
    assert not x[3:].any()
    data.test_batch(10, 18, x, y)
    np.testing.assert_array_equal(x * 16, data.test_x[10:18])
    np.testing.assert_array_equal(y, data.test_y[10:18])
    with pytest.raises(IndexError):
        data.batch(np.array([1438]), x[:1], y[:1])


def test_a_fingerprint_tells_data_apart() -> None:
    digits = DataConfig(source="digits")
    assert load_dataset(digits).fingerprint() == load_dataset(digits).fingerprint()
    other = load_dataset(DataConfig(source="digits", test=0.3))
    assert load_dataset(digits).fingerprint() != other.fingerprint()


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({}, "name a .csv or .npz file"),
        ({"source": "csv"}, "reads a file"),
        ({"path": "x.txt"}, "neither .csv nor .npz"),
        ({"source": "digits", "path": "x.csv"}, "comes with the package"),
        ({"source": "iris", "test_path": "x.csv"}, "has its own test rows"),
        ({"source": "iris", "task": "regression"}, "is for classification"),
        ({"path": "x.csv", "task": "regression", "classes": 3}, "must be left out"),
        ({"path": "x.csv", "label": True}, "a column's name or its index"),
        ({"path": "x.csv", "header": "yes"}, 'true, false or "auto"'),
        ({"path": "x.csv", "test": 1.0}, "less than 1"),
        ({"source": "iris", "validation_path": "x.csv"}, "set data.validation to hold out rows"),
        ({"path": "x.csv", "validation": 0.1, "validation_path": "y.csv"}, "not both"),
        ({"path": "x.csv", "classes": 1}, "greater than 1"),
    ],
)
def test_keys_that_do_not_fit_are_refused(values: dict[str, object], word: str) -> None:
    with pytest.raises(ValidationError, match=word):
        DataConfig.model_validate(values)
