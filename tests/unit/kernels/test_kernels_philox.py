import numpy as np
import pytest

from kernels.philox import counters, philox4x32, uniforms

# Random123's kat_vectors: counter, key, output.
KNOWN = [
    ((0,) * 4, (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    (
        (0xFFFFFFFF,) * 4,
        (0xFFFFFFFF, 0xFFFFFFFF),
        (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    ),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "output"), KNOWN)
def test_known_answers(
    counter: tuple[int, ...], key: tuple[int, int], output: tuple[int, ...]
) -> None:
    assert philox4x32(np.array([counter], np.uint32), key).tolist() == [list(output)]


@pytest.mark.parametrize("first", [0, 2**32 - 1, 2**64 - 1, 2**96 - 2, 2**128 - 1])
def test_counters_carry_through_all_words(first: int) -> None:
    words = counters(first, 3).tolist()
    values = [sum(word << 32 * place for place, word in enumerate(row)) for row in words]
    assert values == [(first + block) % 2**128 for block in range(3)]


def test_uniforms_lie_in_the_half_open_interval() -> None:
    numbers = uniforms(100_001, (7, 9), 12)
    assert numbers.dtype == np.float32
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert abs(numbers.mean() - 0.5) < 0.005
    np.testing.assert_array_equal(numbers[4:44], uniforms(40, (7, 9), 13))
