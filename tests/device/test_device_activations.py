import math

import numpy as np
import pytest
from exchange import get, normal, put
from gradients import assert_gradient

from kernels.activations import ACTIVATIONS
from kernels.engine import Engine
from kernels.errors import KernelError
from kernels.ops import activations
from kernels.ops.activations import activate, activate_gradient, gelu, gelu_gradient

SIZES = [1, 15, 16, 17, 9001]


def spread(seed: int, size: int) -> np.ndarray:
    return normal(seed, size) * np.float32(3)


@pytest.mark.parametrize("size", SIZES)
def test_gelu_and_its_gradient(engine: Engine, size: int) -> None:
    x, delta = spread(1, size), normal(2, size)
    array, out = put(engine, x), engine.empty((size,))
    gelu(engine, array, out)
    exact = np.empty(size)
    activations.gelu_twin(x.astype(float), exact)
    np.testing.assert_allclose(get(engine, out), exact, rtol=3e-6, atol=1e-9)
    gelu_gradient(engine, put(engine, delta), array, out)
    activations.gelu_back_twin(delta.astype(float), x.astype(float), exact)
    np.testing.assert_allclose(get(engine, out), exact, rtol=3e-6, atol=1e-6)


def test_gelu_is_that_of_the_paper() -> None:
    x = np.array([-3.0, -1.0, 0.0, 0.5, 2.0])
    out = np.empty(5)
    activations.gelu_twin(x, out)
    wanted = [v * 0.5 * (1 + math.erf(v / math.sqrt(2))) for v in x]
    np.testing.assert_allclose(out, wanted, atol=1e-15)
    found = np.empty(5)
    activations.gelu_back_twin(np.ones(5), x, found)

    def total() -> float:
        activations.gelu_twin(x, out)
        return float(out.sum())

    assert_gradient(total, x, found)


@pytest.mark.parametrize("size", [1, 37])
def test_gelu_of_extremes(engine: Engine, size: int) -> None:
    for value, wanted, slope in ((1e30, 1e30, 1.0), (-1e30, 0.0, 0.0), (0.0, 0.0, 0.5)):
        x = put(engine, np.full(size, value, np.float32))
        out, ones = engine.empty((size,)), put(engine, np.ones(size, np.float32))
        gelu(engine, x, out)
        np.testing.assert_allclose(get(engine, out), np.float32(wanted), rtol=1e-6)
        gelu_gradient(engine, ones, x, out)
        np.testing.assert_allclose(get(engine, out), slope, atol=1e-6)
    nan = put(engine, np.full(size, np.nan, np.float32))
    for run in (lambda: gelu(engine, nan, out), lambda: gelu_gradient(engine, ones, nan, out)):
        run()
        assert np.isnan(get(engine, out)).all()


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("size", [1, 17, 9001])
def test_activations_by_themselves(engine: Engine, name: str, size: int) -> None:
    x, delta = spread(1, size), normal(2, size)
    out, exact, slope = engine.empty((size,)), np.empty(size), np.empty(size)
    activate(engine, name, put(engine, x), out)
    code = ACTIVATIONS[name].code
    activations.activate_twin(x.astype(float), exact, code)
    np.testing.assert_allclose(get(engine, out), exact, rtol=1e-5, atol=1e-6)
    activations.activate_back_twin(delta.astype(float), exact, slope, code)
    activate_gradient(engine, name, put(engine, delta), out, out)
    np.testing.assert_allclose(get(engine, out), slope, rtol=1e-5, atol=1e-5)
    x[size // 2] = np.nan
    activate(engine, name, put(engine, x), out)
    assert np.isnan(get(engine, out)).sum() == 1


def test_sizes_that_do_not_fit_are_refused(engine: Engine) -> None:
    a, b = engine.empty((8,)), engine.empty((7,))
    with pytest.raises(KernelError, match="gelu: arrays of 8 and 7"):
        gelu(engine, a, b)
    with pytest.raises(KernelError, match="arrays of 8 and 7"):
        gelu_gradient(engine, a, b, a)
    with pytest.raises(KernelError, match="arrays of 8 and 7"):
        activate_gradient(engine, "tanh", a, a, b)
    with pytest.raises(KernelError, match="unknown activation 'swoosh'"):
        activate(engine, "swoosh", a, a)
