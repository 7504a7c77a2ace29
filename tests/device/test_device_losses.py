from collections.abc import Callable

import numpy as np
import pytest
from exchange import get, normal, put

from kernels.engine import Engine
from kernels.errors import KernelError
from kernels.ops import losses, reductions
from kernels.ops.losses import mean_squared_error, softmax_cross_entropy

Loss = Callable[..., None]


def computed(
    engine: Engine, loss: Loss, output: np.ndarray, target: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return a loss's gradient and its sums."""
    delta, stats = engine.empty(output.shape), engine.empty((2,))
    rows = losses.workspace(engine, len(output))
    loss(engine, put(engine, output), put(engine, target), delta, stats, rows)
    return get(engine, delta), get(engine, stats)


def expected(
    twin: Callable[..., None], output: np.ndarray, target: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the same from a twin, in float64."""
    delta, rows = np.empty(output.shape), np.empty((2, len(output)))
    twin(output.astype(float), target, delta, rows, output.shape[1])
    return delta, rows.sum(axis=1)


@pytest.mark.parametrize("shape", [(1, 1), (1, 10), (33, 3), (128, 10), (129, 17)], ids=str)
@pytest.mark.parametrize("spread", [1.0, 200.0])
def test_softmax_cross_entropy(engine: Engine, shape: tuple[int, int], spread: float) -> None:
    logits = normal(1, *shape) * np.float32(spread)
    labels = np.random.default_rng(2).integers(0, shape[1], shape[0], np.int32)
    delta, stats = computed(engine, softmax_cross_entropy, logits, labels)
    wanted, totals = expected(losses.softmax_cross_entropy_twin, logits, labels)
    np.testing.assert_allclose(delta, wanted, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(stats, totals, rtol=1e-5, atol=1e-5)


def test_a_label_out_of_range_gives_nan(engine: Engine) -> None:
    labels = np.array([0, 4, 1], np.int32)
    delta, stats = computed(engine, softmax_cross_entropy, normal(1, 3, 4), labels)
    assert np.isnan(stats[0])
    assert np.isnan(delta).any(axis=1).tolist() == [False, True, False]


@pytest.mark.parametrize("shape", [(1, 1), (33, 3), (128, 10), (129, 17)], ids=str)
def test_mean_squared_error(engine: Engine, shape: tuple[int, int]) -> None:
    output, target = normal(1, *shape), normal(2, *shape)
    delta, stats = computed(engine, mean_squared_error, output, target)
    wanted, totals = expected(losses.mean_squared_error_twin, output, target)
    np.testing.assert_allclose(delta, wanted, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(stats, totals, rtol=1e-5)


@pytest.mark.parametrize("shape", [(1, 1), (3, 17), (33, 129), (128, 784)], ids=str)
def test_column_sum_adds_rows_in_order(engine: Engine, shape: tuple[int, int]) -> None:
    a = normal(3, *shape)
    out = engine.empty((shape[1],))
    reductions.column_sum(engine, put(engine, a), out)
    np.testing.assert_array_equal(get(engine, out), np.add.accumulate(a, axis=0)[-1])


@pytest.mark.parametrize("size", [1, 16, 17, 16384, 50001])
def test_all_finite_sees_every_element(engine: Engine, size: int) -> None:
    flag = engine.empty((1,), np.int32)
    host = normal(4, size)
    host[0] = np.finfo(np.float32).max
    array = put(engine, host)
    reductions.all_finite(engine, array, flag)
    assert get(engine, flag)[0] == 1
    for place in {0, size // 2, size - 1}:
        for value in (np.inf, -np.inf, np.nan, -np.nan):
            spoiled = host.copy()
            spoiled[place] = value
            engine.upload(array, spoiled)
            reductions.all_finite(engine, array, flag)
            assert get(engine, flag)[0] == 0


def test_a_finite_view_beside_a_nan_is_finite(engine: Engine) -> None:
    array = put(engine, np.array([np.nan, 1, 2, np.inf], np.float32))
    flag = engine.empty((1,), np.int32)
    reductions.all_finite(engine, array.view(1, (2,)), flag)
    assert get(engine, flag)[0] == 1


def test_shapes_that_do_not_fit_are_refused(engine: Engine) -> None:
    logits, stats = engine.empty((3, 4)), engine.empty((2,))
    rows = losses.workspace(engine, 3)
    with pytest.raises(KernelError, match=r"expected shape \[3\]"):
        softmax_cross_entropy(engine, logits, engine.empty((4,), np.int32), logits, stats, rows)
    with pytest.raises(KernelError, match="labels takes int32"):
        softmax_cross_entropy(engine, logits, engine.empty((3,)), logits, stats, rows)
    labels = engine.empty((3,), np.int32)
    with pytest.raises(KernelError, match="workspace is one of 2 rows, not of 3"):
        softmax_cross_entropy(engine, logits, labels, logits, stats, losses.workspace(engine, 2))
    with pytest.raises(KernelError, match="column_sum"):
        reductions.column_sum(engine, logits, stats)
    with pytest.raises(KernelError, match="flag"):
        reductions.all_finite(engine, logits, stats)
    with pytest.raises(KernelError, match="equal in type and size"):
        engine.upload(logits, np.zeros((3, 4)))
