import numpy as np
import pytest
from exchange import get

from kernels.engine import Engine
from kernels.errors import KernelError
from kernels.ops import random
from kernels.philox import uniforms


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 1027])
@pytest.mark.parametrize("counter", [0, 2**32 - 1, 2**64 - 1, 2**64 + 5, 2**128 - 2])
@pytest.mark.parametrize("key", [(0, 0), (2**32 - 1, 2**32 - 1), (0xA4093822, 0x299F31D0)], ids=str)
def test_uniforms_are_equal_on_every_device(
    engine: Engine, size: int, counter: int, key: tuple[int, int]
) -> None:
    out = engine.empty((size,))
    random.uniform(engine, out, key=key, counter=counter)
    np.testing.assert_array_equal(get(engine, out), uniforms(size, key, counter))


def test_uniforms_are_the_upper_bits_of_the_known_answer(engine: Engine) -> None:
    out = engine.empty((4,))
    random.uniform(engine, out, key=(0, 0), counter=0)
    words = np.array([0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8])
    np.testing.assert_array_equal(get(engine, out), (words >> 8) * 2.0**-24)


def test_a_key_of_more_than_two_words_is_refused(engine: Engine) -> None:
    with pytest.raises(KernelError, match="32-bit"):
        random.uniform(engine, engine.empty((4,)), key=(2**32, 0), counter=0)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 1027])
def test_normals_differ_by_ulps_at_most(engine: Engine, size: int) -> None:
    out, exact = engine.empty((size,)), np.empty(size)
    random.normal(engine, out, key=(5, 6), counter=2**64 - 3)
    random.normal_twin(exact, size, 2**64 - 3, 0, 5, 6)
    np.testing.assert_allclose(get(engine, out), exact, rtol=1e-5, atol=1e-6)


def test_normals_are_normal(engine: Engine) -> None:
    out = engine.empty((250, 400))
    random.normal(engine, out, key=(1, 2), counter=3)
    found = get(engine, out).astype(float).reshape(-1)
    assert np.isfinite(found).all()
    for power, moment in enumerate((0, 1, 0, 3), 1):
        assert (found**power).mean() == pytest.approx(moment, abs=0.05)
    assert (np.abs(found) < 1).mean() == pytest.approx(0.6827, abs=0.005)
    assert abs((found[::2] * found[1::2]).mean()) < 0.01


@pytest.mark.parametrize("probability", [0.0, 2.0**-24, 0.3, 0.5, 1.0])
def test_bernoullis_are_equal_on_every_device(engine: Engine, probability: float) -> None:
    out = engine.empty((1027,))
    random.bernoulli(engine, out, probability, key=(5, 6), counter=2**64 - 3)
    wanted = uniforms(1027, (5, 6), 2**64 - 3) < probability
    np.testing.assert_array_equal(get(engine, out), wanted)
    assert not np.signbit(get(engine, out)).any()
    assert get(engine, out).mean() == pytest.approx(probability, abs=0.05)
    twin = np.empty(1027)
    random.bernoulli_twin(twin, 1027, 2**64 - 3, 0, 5, 6, random.threshold(probability))
    np.testing.assert_array_equal(get(engine, out), twin)


def test_what_is_no_probability_is_refused(engine: Engine) -> None:
    for wrong in (-0.1, 1.1, float("nan")):
        with pytest.raises(KernelError, match="a probability lies in 0..1"):
            random.bernoulli(engine, engine.empty((4,)), wrong, key=(0, 0), counter=0)
