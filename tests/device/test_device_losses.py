"""Each loss against its twin in float64, and the twins against formulas and finite differences."""

from collections.abc import Callable

import numpy as np
import pytest
from exchange import get, normal, put

from kernels.engine import Engine
from kernels.errors import KernelError
from kernels.ops import losses

NAMES = [
    "softmax_cross_entropy",
    "softmax_cross_entropy_dense",
    "binary_cross_entropy",
    "mean_squared_error",
    "mean_absolute_error",
    "hinge",
    "binary_hinge",
    "negative_log_likelihood",
    "kullback_leibler",
]
LABELLED = ["softmax_cross_entropy", "hinge", "negative_log_likelihood"]
SHAPES = [(1, 1), (1, 10), (33, 3), (129, 17)]


def softmax(x: np.ndarray) -> np.ndarray:
    e: np.ndarray = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def log_softmax(x: np.ndarray) -> np.ndarray:
    shifted = x - x.max(axis=1, keepdims=True)
    found: np.ndarray = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return found


def example(name: str, shape: tuple[int, int], spread: float) -> tuple[np.ndarray, np.ndarray]:
    """Return outputs and targets of a loss."""
    output = normal(1, *shape) * np.float32(spread)
    random = np.random.default_rng(2)
    if name in LABELLED:
        target = random.integers(0, shape[1], shape[0], np.int32)
    elif name == "binary_hinge":
        target = random.choice(np.array([-1, 1], np.float32), shape)
    elif name in ("mean_squared_error", "mean_absolute_error"):
        target = normal(2, *shape)
    else:
        target = softmax(normal(2, *shape) * 3)
        target[0, 0] = 0
    if name in ("negative_log_likelihood", "kullback_leibler"):
        output = log_softmax(output)
    return output, target


def computed(
    engine: Engine, name: str, output: np.ndarray, target: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return a loss's gradient and its sums."""
    delta, stats = engine.empty(output.shape), engine.empty((2,))
    rows = losses.workspace(engine, len(output))
    loss: Callable[..., None] = getattr(losses, name)
    loss(engine, put(engine, output), put(engine, target), delta, stats, rows)
    return get(engine, delta), get(engine, stats)


def expected(name: str, output: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the gradient from a twin in float64, and each example's loss and hit."""
    delta, rows = np.empty(output.shape), np.empty((2, len(output)))
    twin: Callable[..., None] = getattr(losses, f"{name}_twin")
    exact = target if name in LABELLED else target.astype(float)
    twin(output.astype(float), exact, delta, rows, output.shape[1])
    return delta, rows


def formula(name: str, x: np.ndarray, target: np.ndarray) -> float:
    """Return one example's loss as books write it."""
    t = target
    if name == "softmax_cross_entropy":
        return float(-np.log(softmax(x[None])[0, t]))
    if name == "softmax_cross_entropy_dense":
        return float(-(t * np.log(softmax(x[None])[0])).sum())
    if name == "binary_cross_entropy":
        s = 1 / (1 + np.exp(-x))
        return float(-(t * np.log(s) + (1 - t) * np.log(1 - s)).mean())
    if name == "hinge":
        return float(max(0, *(1 + x[c] - x[t] for c in range(len(x)) if c != t)))
    if name == "negative_log_likelihood":
        return float(-x[t])
    if name == "kullback_leibler":
        some = t > 0
        return float((t[some] * np.log(t[some] / np.exp(x[some]))).sum())
    terms = {
        "mean_squared_error": (x - t) ** 2,
        "mean_absolute_error": np.abs(x - t),
        "binary_hinge": np.maximum(0, 1 - t * x),
    }
    return float(terms[name].mean())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("spread", [1.0, 200.0])
@pytest.mark.parametrize("name", NAMES)
def test_a_loss_and_its_gradient(
    engine: Engine, name: str, shape: tuple[int, int], spread: float
) -> None:
    output, target = example(name, shape, spread)
    delta, stats = computed(engine, name, output, target)
    wanted, rows = expected(name, output, target)
    np.testing.assert_allclose(delta, wanted, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(stats, rows.sum(axis=1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_a_twin_is_the_formula_and_its_slope(name: str) -> None:
    output, target = example(name, (9, 5), 1.0)
    output, delta = output.astype(float), np.empty(output.shape)
    delta, rows = expected(name, output, target)
    for row in range(9):
        exact = target[row] if name in LABELLED else target[row].astype(float)
        assert rows[0, row] == pytest.approx(formula(name, output[row], exact))
        for c in range(5):
            step = np.zeros(5)
            step[c] = 1e-6
            sides = (formula(name, output[row] + by, exact) for by in (step, -step))
            slope = np.subtract(*sides) / 2e-6
            assert delta[row, c] == pytest.approx(slope, abs=1e-7)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("place", [0, 1, 16])
def test_a_nan_stays_in_the_loss(engine: Engine, name: str, place: int) -> None:
    output, target = example(name, (3, 17), 1.0)
    output[1, place] = np.nan
    with np.errstate(invalid="ignore"):
        delta, stats = computed(engine, name, output, target)
    assert np.isnan(stats[0])
    assert np.isfinite(delta[[0, 2]]).all()


@pytest.mark.parametrize("name", LABELLED)
def test_a_label_out_of_range_gives_nan(engine: Engine, name: str) -> None:
    for label in (-1, 4, 2**31 - 1):
        labels = np.array([0, label, 1], np.int32)
        delta, stats = computed(engine, name, normal(1, 3, 4), labels)
        assert np.isnan(stats[0])
        assert np.isnan(delta).any(axis=1).tolist() == [False, True, False]


def test_right_examples_are_counted(engine: Engine) -> None:
    output = np.array([[2, -1, -1], [-1, 2, 1], [-3, -2, -1]], np.float32)
    signs = np.array([[1, -1, -1], [-1, 1, -1], [-1, -1, -1]], np.float32)
    for name, target, right in (
        ("hinge", np.array([0, 2, 2], np.int32), 2),
        ("mean_squared_error", signs, 2),
        ("binary_hinge", signs, 2),
        ("binary_cross_entropy", (signs + 1) / 2, 2),
    ):
        assert computed(engine, name, output, target)[1][1] == right


def test_softmax_is_stable(engine: Engine) -> None:
    logits = np.array([[1e4, 0.0], [-1e4, 0.0]], np.float32)
    delta, stats = computed(engine, "softmax_cross_entropy", logits, np.array([0, 1], np.int32))
    assert (delta.tolist(), stats.tolist()) == ([[0, 0], [0, 0]], [0, 2])
    dense = np.eye(2, dtype=np.float32)
    delta, stats = computed(engine, "softmax_cross_entropy_dense", logits, dense)
    assert (delta.tolist(), stats.tolist()) == ([[0, 0], [0, 0]], [0, 2])
    delta, stats = computed(engine, "binary_cross_entropy", logits[:, :1], dense[:, :1])
    assert (delta.tolist(), stats.tolist()) == ([[0], [0]], [0, 2])


def test_shapes_that_do_not_fit_are_refused(engine: Engine) -> None:
    logits, stats = engine.empty((3, 4)), engine.empty((2,))
    rows, labels = losses.workspace(engine, 3), engine.empty((3,), np.int32)
    labelled, dense = losses.softmax_cross_entropy, losses.mean_absolute_error
    with pytest.raises(KernelError, match=r"expected shape \[3\]"):
        labelled(engine, logits, engine.empty((4,), np.int32), logits, stats, rows)
    with pytest.raises(KernelError, match="labels takes int32"):
        labelled(engine, logits, engine.empty((3,)), logits, stats, rows)
    with pytest.raises(KernelError, match="workspace is one of 2 rows, not of 3"):
        labelled(engine, logits, labels, logits, stats, losses.workspace(engine, 2))
    with pytest.raises(KernelError, match=r"expected shape \[3, 4\]"):
        dense(engine, logits, engine.empty((3, 3)), logits, stats, rows)
    with pytest.raises(KernelError, match="takes float32, not int32"):
        dense(engine, logits, engine.empty((3, 4), np.int32), logits, stats, rows)
    with pytest.raises(KernelError, match="equal in type and size"):
        engine.upload(logits, np.zeros((3, 4)))
