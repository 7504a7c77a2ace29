"""Whole vectors on the device: differences, clipping, and update rules over the device's arrays."""

import numpy as np
import pyopencl as cl
import pytest
from exchange import get, normal, put

from kernels.device.discovery import numpy_device
from kernels.engine import Engine
from kernels.errors import KernelError
from kernels.host import NumpyEngine
from kernels.opencl import OpenCLEngine
from kernels.ops import reductions, vectors
from kernels.rule_twin import RULES, RuleSpec, RuleTwin, Update, state_count

SIZES = [1, 17, 255, 4097, 70001]


def assert_equal_bits(engine: OpenCLEngine, found: np.ndarray, wanted: np.ndarray) -> None:
    device = engine.device.cl_device
    if device.type & cl.device_type.CPU:
        np.testing.assert_array_equal(found.view(np.uint32), wanted.view(np.uint32))
    else:  # OpenCL lets quotients and roots of other devices be off by a few units
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_a_difference_is_scaled(engine: Engine, size: int) -> None:
    a, b = normal(1, size), normal(2, size)
    first, second = put(engine, a), put(engine, b)
    out = engine.empty((size,))
    vectors.difference(engine, first, second, out, factor=96)
    np.testing.assert_array_equal(get(engine, out), (a - b) * np.float32(96))
    vectors.difference(engine, first, second, second)
    np.testing.assert_array_equal(get(engine, second), a - b)
    vectors.fill(engine, first, 2.5)
    assert (get(engine, first) == 2.5).all()


@pytest.mark.parametrize("size", SIZES)
def test_values_are_clipped(engine: Engine, size: int) -> None:
    values = normal(3, size)
    array = put(engine, values)
    vectors.clip_value(engine, array, 0.5)
    np.testing.assert_array_equal(get(engine, array), np.clip(values, -0.5, 0.5))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("share", [0.5, 0.999, 2.0])
def test_a_norm_over_its_limit_becomes_the_limit(engine: Engine, size: int, share: float) -> None:
    values = normal(4, size)
    norm = float(np.linalg.norm(values.astype(float)))
    array = put(engine, values)
    vectors.clip_norm(engine, array, share * norm, reductions.workspace(engine, size))
    clipped = get(engine, array)
    if share > 1:
        np.testing.assert_array_equal(clipped, values)
    else:
        assert np.linalg.norm(clipped.astype(float)) == pytest.approx(share * norm, rel=1e-6)
        np.testing.assert_allclose(clipped, values * share, rtol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_clipping_hides_nothing_that_is_not_finite(engine: Engine, bad: float) -> None:
    values = normal(5, 4097)
    values[4096] = bad
    sums = reductions.workspace(engine, values.size)
    for clip, *work in ((vectors.clip_value,), (vectors.clip_norm, sums)):
        array, flag = put(engine, values), put(engine, np.ones(1, np.int32))
        clip(engine, array, 0.5, *work)
        reductions.clear_unless_finite(engine, array, flag)
        assert get(engine, flag)[0] == 0


def test_a_view_is_clipped_and_nothing_beside_it(engine: Engine) -> None:
    values = normal(6, 1000)
    array = put(engine, values)
    sums = reductions.workspace(engine, 370)
    vectors.clip_norm(engine, array.view(300, (37, 10)), 1.0, sums)
    vectors.clip_value(engine, array.view(7, (13,)), 0.1)
    vectors.fill(engine, array.view(990, (5,)), 0.0)
    expected = values.copy()
    expected[300:670] /= np.linalg.norm(expected[300:670].astype(float))
    expected[7:20] = np.clip(expected[7:20], -0.1, 0.1)
    expected[990:995] = 0
    np.testing.assert_allclose(get(engine, array), expected, rtol=1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_clipping_and_its_twin_are_equal_bit_for_bit(opencl: OpenCLEngine, size: int) -> None:
    values = normal(7, size) * 10.0 ** (np.arange(size, dtype=np.float32) % 9)
    host = NumpyEngine(numpy_device())
    clipped = []
    for engine in (opencl, host):
        by_norm, by_value = put(engine, values), put(engine, values)
        vectors.clip_norm(engine, by_norm, 3.0, reductions.workspace(engine, size))
        vectors.clip_value(engine, by_value, 3.0)
        clipped.append((get(engine, by_norm), get(engine, by_value)))
    for found, twin in zip(*clipped, strict=True):
        assert_equal_bits(opencl, found, twin)


@pytest.mark.parametrize("name", RULES)
def test_a_rule_on_the_device_is_its_twin(opencl: OpenCLEngine, name: str) -> None:
    spec = RuleSpec(name, weight_decay=0.01)
    apply, twin = opencl.rule(spec), RuleTwin(spec)
    size, begin = 20011, 5
    weights, pulled = normal(8, size), normal(8, size)
    kept = [np.zeros(size, np.float32) for _ in range(state_count(name))]
    whole = [opencl.empty((size + begin,)) for _ in range(3 + len(kept))]
    first, device, gradient, *state = (array.view(begin, (size,)) for array in whole)
    opencl.upload(first, pulled)
    for array in state:
        vectors.fill(opencl, array, 0.0)
    for step in (1, 2, 3):
        by = normal(10 + step, size)
        opencl.upload(gradient, by)
        # The first update leaves the weights it began from as they are, as local training needs.
        source = first if step == 1 else device
        apply(source, device, gradient, state, scale=0.25, rate=0.05, step=step)
        twin.apply(Update(weights, weights, tuple(kept), by, 0.25, 0.05, step))
        opencl.wait()
    np.testing.assert_array_equal(get(opencl, first), pulled)
    assert_equal_bits(opencl, get(opencl, device), weights)
    for array, wanted in zip(state, kept, strict=True):
        assert_equal_bits(opencl, get(opencl, array), wanted)


def test_what_does_not_fit_is_refused(engine: Engine) -> None:
    a, b = engine.empty((8,)), engine.empty((7,))
    with pytest.raises(KernelError, match="arrays of 8 and 7 elements"):
        vectors.difference(engine, a, b, a)
    with pytest.raises(KernelError, match="must be positive and finite, not 0"):
        vectors.clip_norm(engine, a, 0.0, b)
    with pytest.raises(KernelError, match="a reduction of 600 elements needs a workspace of 4"):
        vectors.clip_norm(engine, engine.empty((600,)), 1.0, engine.empty((3,)))
    with pytest.raises(KernelError, match="must be positive"):
        vectors.clip_norm(engine, a, -1.0, b)
    with pytest.raises(KernelError, match="must be positive and finite, not inf"):
        vectors.clip_value(engine, a, float("inf"))
    with pytest.raises(KernelError, match="takes float32, not int32"):
        vectors.fill(engine, engine.empty((8,), np.int32), 0.0)
    momentum = engine.rule(RuleSpec("momentum"))
    with pytest.raises(KernelError, match="keeps 1 state arrays, got 0"):
        momentum(a, a, a, [], scale=1.0, rate=0.1, step=1)
    with pytest.raises(KernelError, match="arrays of 8 and 7 elements"):
        momentum(a, a, b, [a], scale=1.0, rate=0.1, step=1)
