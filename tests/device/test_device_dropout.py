import numpy as np
import pytest
from exchange import get, normal, put

from kernels.engine import Engine
from kernels.errors import KernelError
from kernels.ops.dropout import blocks, dropout, stream
from kernels.philox import uniforms

KEY = (2**32 - 1, 7)


@pytest.mark.parametrize("size", [1, 3, 4, 17, 9001])
@pytest.mark.parametrize("counter", [0, 2**64 - 2, 2**128 - 1])
@pytest.mark.parametrize("rate", [0.0, 0.25, 0.5])
def test_what_is_dropped_is_equal_on_every_device(
    engine: Engine, size: int, counter: int, rate: float
) -> None:
    x = normal(1, size)
    at, out = put(engine, stream(KEY, counter)), engine.empty((size,))
    dropout(engine, put(engine, x), out, at, rate=rate, block=5)
    kept = uniforms(size, KEY, (counter + 5) % 2**128) >= rate
    np.testing.assert_array_equal(get(engine, out), x * kept * np.float32(1 / (1 - rate)))


def test_the_way_back_drops_the_same_and_the_mean_stays(engine: Engine) -> None:
    ones = np.ones((100, 300), np.float32)
    at, out = put(engine, stream((1, 2), 3)), put(engine, ones)
    dropout(engine, out, out, at, rate=0.3)
    found = get(engine, out)
    assert found.mean() == pytest.approx(1, abs=0.01)
    assert (found == 0).mean() == pytest.approx(0.3, abs=0.01)
    delta = put(engine, 2 * ones)
    dropout(engine, delta, delta, at, rate=0.3)
    np.testing.assert_array_equal(get(engine, delta), 2 * found)


def test_layers_and_steps_drop_others(engine: Engine) -> None:
    ones = put(engine, np.ones(4000, np.float32))
    at, out = put(engine, stream((1, 2), 0)), engine.empty((2, 4000))
    with engine.recording() as step:
        dropout(engine, ones, out.view(0, (4000,)), at, rate=0.5)
        dropout(engine, ones, out.view(4000, (4000,)), at, rate=0.5, block=blocks(4000))
    seen = []
    for counter in (0, 2000, 0):
        engine.upload(at, stream((1, 2), counter))
        engine.wait()
        step()
        seen.append(get(engine, out))
    np.testing.assert_array_equal(seen[0], seen[2])
    masks = [seen[0][0], seen[0][1], seen[1][0], seen[1][1]]
    for i, one in enumerate(masks):
        for other in masks[:i]:
            assert (one == other).mean() == pytest.approx(0.5, abs=0.05)


def test_a_nan_stays(engine: Engine) -> None:
    x = put(engine, np.full(37, np.nan, np.float32))
    dropout(engine, x, x, put(engine, stream((1, 2), 0)), rate=0.9)
    assert np.isnan(get(engine, x)).all()


def test_what_does_not_fit_is_refused(engine: Engine) -> None:
    x, at = engine.empty((8,)), put(engine, stream((1, 2), 0))
    for rate in (-0.1, 1.0, float("nan")):
        with pytest.raises(KernelError, match="rate is 0 or more and below 1"):
            dropout(engine, x, x, at, rate=rate)
    with pytest.raises(KernelError, match="arrays of 8 and 7"):
        dropout(engine, x, engine.empty((7,)), at, rate=0.5)
    with pytest.raises(KernelError, match=r"expected shape \[6\]"):
        dropout(engine, x, x, engine.empty((4,), np.int32), rate=0.5)
    with pytest.raises(KernelError, match="takes int32"):
        dropout(engine, x, x, engine.empty((6,)), rate=0.5)
    with pytest.raises(KernelError, match="64 bits, not -1"):
        dropout(engine, x, x, at, rate=0.5, block=-1)
    with pytest.raises(KernelError, match="128 bits"):
        stream((1, 2), 2**128)
