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
