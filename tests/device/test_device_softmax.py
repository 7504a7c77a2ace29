from collections.abc import Callable

import numpy as np
import pytest
from exchange import get, normal, put
from gradients import assert_gradient

from kernels.engine import Engine
from kernels.errors import KernelError
from kernels.ops import softmax as family

NAMES = ["softmax", "log_softmax"]
SHAPES = [(1, 1), (3, 15), (5, 16), (33, 10), (7, 1000)]


def functions(name: str) -> tuple[Callable[..., None], ...]:
    names = (name, f"{name}_gradient", f"{name}_twin", f"{name}_back_twin")
    return tuple(getattr(family, each) for each in names)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("spread", [1.0, 1e4])
@pytest.mark.parametrize("name", NAMES)
def test_rows_and_their_gradient(
    engine: Engine, name: str, shape: tuple[int, int], spread: float
) -> None:
    forward, back, twin, back_twin = functions(name)
    x, delta = normal(1, *shape) * np.float32(spread), normal(2, *shape)
    out, exact = engine.empty(shape), np.empty(shape)
    forward(engine, put(engine, x), out)
    twin(x.astype(float), exact, shape[1])
    y = get(engine, out)
    np.testing.assert_allclose(y, exact, rtol=1e-5, atol=1e-6)
    result, slope = engine.empty(shape), np.empty(shape)
    back(engine, put(engine, delta), out, result)
    back_twin(delta.astype(float), y.astype(float), slope, shape[1])
    np.testing.assert_allclose(get(engine, result), slope, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("name", NAMES)
def test_a_twin_s_gradient_is_that_of_finite_differences(name: str) -> None:
    _, _, twin, back_twin = functions(name)
    x, by = normal(1, 3, 5).astype(float), normal(2, 3, 5).astype(float)
    y, found = np.empty((3, 5)), np.empty((3, 5))

    def objective() -> float:
        twin(x, y, 5)
        return float((y * by).sum())

    objective()
    back_twin(by, y, found, 5)
    assert_gradient(objective, x, found)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("place", [0, 5, 18])
def test_a_nan_spoils_its_row_alone(engine: Engine, name: str, place: int) -> None:
    x = normal(1, 3, 19)
    x[1, place] = np.nan
    out = put(engine, x)
    functions(name)[0](engine, out, out)
    assert np.isnan(get(engine, out)).all(axis=1).tolist() == [False, True, False]
    assert np.isfinite(get(engine, out)[[0, 2]]).all()


def test_shapes_that_do_not_fit_are_refused(engine: Engine) -> None:
    a = engine.empty((3, 4))
    with pytest.raises(KernelError, match=r"expected shape \[3, 4\]"):
        family.softmax(engine, a, engine.empty((4, 3)))
    with pytest.raises(KernelError, match="takes a matrix with rows"):
        family.log_softmax(engine, engine.empty((4,)), engine.empty((4,)))
    with pytest.raises(KernelError, match="takes float32, not int32"):
        family.softmax_gradient(engine, a, engine.empty((3, 4), np.int32), a)
