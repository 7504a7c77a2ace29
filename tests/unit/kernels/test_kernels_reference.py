"""The twins in float64 against central differences."""

from collections.abc import Callable

import numpy as np
import pytest

from kernels import reference
from kernels.activations import ACTIVATIONS
from kernels.ops import losses

STEP = 1e-5
Loss = Callable[[np.ndarray], float]


def numeric(loss: Loss, x: np.ndarray) -> np.ndarray:
    """Return the gradient of `loss` at x by central differences."""
    gradient = np.empty_like(x)
    for index in np.ndindex(x.shape):
        kept = x[index]
        x[index] = kept + STEP
        above = loss(x)
        x[index] = kept - STEP
        below = loss(x)
        x[index] = kept
        gradient[index] = (above - below) / (2 * STEP)
    return gradient


def assert_close(analytic: np.ndarray, differences: np.ndarray) -> None:
    scale = max(np.abs(differences).max(), 1e-3)
    assert np.abs(analytic - differences).max() / scale < 1e-6


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("loss_name", ["softmax_cross_entropy", "mean_squared_error"])
def test_a_network_s_gradients(activation: str, loss_name: str) -> None:
    random = np.random.default_rng(3)
    x, first, bias = (random.standard_normal(shape) for shape in ((7, 5), (5, 6), (6,)))
    second = random.standard_normal((6, 4))
    labels, target = random.integers(0, 4, 7), random.standard_normal((7, 4))
    hidden, output, delta = np.empty((7, 6)), np.empty((7, 4)), np.empty((7, 4))
    rows = np.empty((2, 7))

    def loss(_: np.ndarray) -> float:
        reference.matmul(x, first, hidden, bias=bias, activation=activation)
        reference.matmul(hidden, second, output)
        if loss_name == "softmax_cross_entropy":
            losses.softmax_cross_entropy_twin(output, labels, delta, rows, 4)
        else:
            losses.mean_squared_error_twin(output, target, delta, rows, 4)
        return float(rows[0].sum())

    differences = [numeric(loss, parameter) for parameter in (x, first, bias, second)]
    loss(x)
    back, by_x = np.empty((7, 6)), np.empty((7, 5))
    by_first, by_bias, by_second = np.empty((5, 6)), np.empty(6), np.empty((6, 4))
    reference.matmul(hidden, delta, by_second, form="tn")
    reference.matmul(delta, second, back, form="nt", derivative=(activation, hidden))
    reference.matmul(x, back, by_first, form="tn", column_sums=by_bias)
    reference.matmul(back, first, by_x, form="nt")
    for analytic, difference in zip((by_x, by_first, by_bias, by_second), differences, strict=True):
        assert_close(analytic, difference)


def test_softmax_is_stable() -> None:
    logits = np.array([[1e4, 0.0], [-1e4, 0.0]], np.float32)
    delta, rows = np.empty((2, 2), np.float32), np.empty((2, 2), np.float32)
    losses.softmax_cross_entropy_twin(logits, np.array([0, 1]), delta, rows, 2)
    assert delta.tolist() == [[0, 0], [0, 0]]
    assert rows.tolist() == [[0, 0], [1, 1]]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_keep_the_type_and_do_not_overflow(name: str, dtype: type) -> None:
    x = np.array([-1e4, -1, 0, 1, 1e4], dtype)
    ACTIVATIONS[name].apply(x)
    assert x.dtype == dtype
    assert np.isfinite(x).all()
    assert ACTIVATIONS["sigmoid"].code != ACTIVATIONS["tanh"].code
