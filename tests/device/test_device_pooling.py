from functools import partial

import numpy as np
import pytest
from exchange import get, normal, put

from kernels.activations import activation
from kernels.engine import Engine
from kernels.errors import KernelError
from kernels.ops.pooling import (
    Pooling,
    max_pool_back_twin,
    max_pool_twin,
    mean_pool_back_twin,
    mean_pool_twin,
    pool,
    pool_gradient,
)
from kernels.windows import Window

WINDOWS = [
    Window((2, 2), (2, 2)),
    Window((3, 3), (2, 2), (1, 1)),
    Window((2, 3), (1, 2), (1, 0)),
    Window((3, 2), (1, 1)),
    Window((5, 4), (5, 4)),
]
SHAPES = [(1, 1, 5, 4), (3, 2, 8, 8), (2, 5, 13, 11)]
TWINS = {
    "max": (max_pool_twin, max_pool_back_twin),
    "mean": (mean_pool_twin, mean_pool_back_twin),
}


def numbers_of(shape: tuple[int, ...], window: Window) -> tuple[int, ...]:
    return (
        *shape[2:], *window.over((shape[2], shape[3])), *window.size, *window.stride,
        *window.padding,
    )  # fmt: skip


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", ["max", "mean"])
def test_pooling_and_its_gradient(
    engine: Engine, kind: Pooling, shape: tuple[int, int, int, int], window: Window
) -> None:
    forward, back = TWINS[kind]
    x = normal(1, *shape)
    small = (*shape[:2], *window.over(shape[2:]))
    out, expected = engine.empty(small), np.empty(small)
    x_there = put(engine, x)
    pool(engine, kind, x_there, out, window)
    forward(x.astype(float), expected, *numbers_of(shape, window))
    np.testing.assert_allclose(get(engine, out), expected, rtol=1e-6, atol=1e-7)

    y = np.tanh(x)
    delta = normal(2, *small)
    result, wanted = engine.empty(shape), np.empty(shape)
    pool_gradient(
        engine, kind, put(engine, delta), put(engine, y), result, window, derivative="tanh"
    )
    code = activation("tanh").code
    back(delta.astype(float), y.astype(float), wanted, *numbers_of(shape, window), code)
    np.testing.assert_allclose(get(engine, result), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("kind", ["max", "mean"])
def test_gradients_are_those_of_finite_differences(kind: Pooling, window: Window) -> None:
    forward, back = TWINS[kind]
    shape = (2, 2, 7, 8)
    numbers = numbers_of(shape, window)
    # Far from each other, so that no small change makes another element the largest.
    x = np.random.default_rng(3).permutation(np.arange(2.0 * 2 * 7 * 8)).reshape(shape)
    small = (*shape[:2], *window.over(shape[2:]))
    by = np.random.default_rng(4).standard_normal(small)

    def objective(of: np.ndarray) -> float:
        out = np.empty(small)
        forward(of, out, *numbers)
        return float((out * by).sum())

    found = np.empty(shape)
    back(by, x, found, *numbers, activation("identity").code)
    for place in map(tuple, np.argwhere(np.ones(shape))[::7]):
        step = np.zeros(shape)
        step[place] = 1e-4
        slope = (objective(x + step) - objective(x - step)) / 2e-4
        assert found[place] == pytest.approx(slope, abs=1e-7)


@pytest.mark.parametrize("window", [Window((2, 2), (2, 2)), Window((3, 3), (1, 1), (1, 1))])
def test_the_first_of_equals_takes_the_gradient_and_a_nan_stays(
    engine: Engine, window: Window
) -> None:
    shape = (1, 1, 4, 4)
    small = (1, 1, *window.over((4, 4)))
    out, result = engine.empty(small), engine.empty(shape)
    ones = put(engine, np.ones(shape, np.float32))
    pool_gradient(engine, "max", put(engine, np.ones(small, np.float32)), ones, result, window)
    expected = np.empty(shape)
    numbers = numbers_of(shape, window)
    max_pool_back_twin(np.ones(small), np.ones(shape), expected, *numbers, 0)
    np.testing.assert_array_equal(get(engine, result), expected)
    spoiled = np.zeros(shape, np.float32)
    spoiled[0, 0, 1, 1] = np.nan
    spoiled[0, 0, 0, 1] = np.inf
    pool(engine, "max", put(engine, spoiled), out, window)
    assert np.isnan(get(engine, out)[0, 0, 0, 0])


def test_shapes_and_windows_that_do_not_fit_are_refused(engine: Engine) -> None:
    x, out = engine.empty((1, 2, 4, 4)), engine.empty((1, 2, 2, 2))
    refused = partial(pool, engine, "max")
    with pytest.raises(KernelError, match=r"expected shape \[1, 2, 3, 3\]"):
        refused(x, out, Window((2, 2)))
    with pytest.raises(KernelError, match=r"takes \[B,C,H,W\]"):
        refused(engine.empty((4, 4)), out, Window((2, 2), (2, 2)))
    with pytest.raises(KernelError, match="does not fit into planes of 4 x 4"):
        refused(x, out, Window((5, 5)))
    with pytest.raises(KernelError, match="padding up to half the window"):
        refused(x, out, Window((2, 2), (2, 2), (2, 2)))
    with pytest.raises(KernelError, match="at least 1"):
        Window((0, 2))
