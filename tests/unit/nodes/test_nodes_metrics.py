"""Metrics against scikit-learn's."""

import numpy as np
import pytest
from sklearn.metrics import (
    confusion_matrix,
    log_loss,
    mean_absolute_error,
    mean_squared_error,
    precision_recall_fscore_support,
    r2_score,
)

from nodes.data import Schema
from nodes.metrics import measure


def test_a_classification_is_measured_as_scikit_learn_does(rng: np.random.Generator) -> None:
    # Within bounds: scikit-learn takes a chance below 2e-16 for 2e-16, we do not.
    outputs = rng.uniform(-5, 5, size=(200, 5))
    labels = rng.integers(0, 4, 200).astype(np.int32)  # no row of the last class
    outputs[:, 1] -= 11  # no row taken for the second
    found = measure(Schema("classification", (2,), 5, tuple("abcde")), outputs, labels)
    chosen = outputs.argmax(axis=1)
    chances = np.exp(outputs) / np.exp(outputs).sum(axis=1, keepdims=True)
    classes = range(5)
    assert found["accuracy"] == pytest.approx((chosen == labels).mean())
    assert found["loss"] == pytest.approx(log_loss(labels, chances, labels=classes), rel=1e-6)
    assert found["confusion"] == confusion_matrix(labels, chosen, labels=classes).tolist()
    wanted = precision_recall_fscore_support(labels, chosen, labels=classes, zero_division=0)
    for code, (one, name) in enumerate(zip(found["classes"], "abcde", strict=True)):
        assert one["name"] == name
        numbers = [one["precision"], one["recall"], one["f1"], one["rows"]]
        assert numbers == pytest.approx([column[code] for column in wanted])


def test_the_loss_of_a_confident_error_is_finite() -> None:
    outputs = np.array([[1000.0, 0.0]])
    found = measure(Schema("classification", (1,), 2), outputs, np.array([1], np.int32))
    assert (found["loss"], found["accuracy"]) == (1000.0, 0.0)


def test_many_classes_have_no_matrix() -> None:
    labels = np.array([3, 60_000], np.int32)
    outputs = np.zeros((2, 65_536))
    outputs[0, 3] = 1
    found = measure(Schema("classification", (1,), 65_536), outputs, labels)
    assert found["confusion"] is None
    assert found["accuracy"] == 0.5
    assert found["classes"][60_000]["recall"] == 0.0


def test_a_regression_is_measured_as_scikit_learn_does(rng: np.random.Generator) -> None:
    targets = rng.normal(size=(50, 2)).astype(np.float32)
    outputs = targets + rng.normal(size=(50, 2)) * [0.1, 2.0]
    schema = Schema("regression", (3,), 2)
    found = measure(schema, outputs, targets)
    assert found == pytest.approx(
        {
            "loss": mean_squared_error(targets, outputs),
            "mse": mean_squared_error(targets, outputs),
            "mae": mean_absolute_error(targets, outputs),
            "r2": r2_score(targets, outputs),
        }
    )
    targets[:, 1] = 3
    assert measure(schema, outputs, targets)["r2"] is None
