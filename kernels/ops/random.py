"""Random numbers by Philox4x32-10 (Salmon et al., SC11): a number depends on key and counter alone.

`key` is two 32-bit words. `counter` is the 128-bit counter of the first block; each block gives four
numbers, and the next block's counter is one higher.
"""

from __future__ import annotations

import numpy as np

from kernels.checks import check_type
from kernels.errors import KernelError
from kernels.interface import Array, Engine
from kernels.operation import Operation
from kernels.philox import uniforms

GRAIN = 256
"""Blocks that are worth a work-item."""

_WORD = (1 << 64) - 1


def uniform(engine: Engine, out: Array, *, key: tuple[int, int], counter: int) -> None:
    """Fill `out` with uniforms in [0, 1), equal on every device."""
    _run(engine, UNIFORM, out, key, counter)


def normal(engine: Engine, out: Array, *, key: tuple[int, int], counter: int) -> None:
    """Fill `out` with standard normals, from the uniforms in pairs (Box and Muller 1958).

    None is beyond 5.77. Devices' logarithms and cosines differ, so the numbers do by a few ulps: what
    must be equal everywhere is to be made in one place.
    """
    _run(engine, NORMAL, out, key, counter)


def bernoulli(
    engine: Engine, out: Array, probability: float, *, key: tuple[int, int], counter: int
) -> None:
    """Fill `out` with 1 in so many cases and 0 in the others, equal on every device.

    The probability is taken as a multiple of 2^-24.
    """
    _run(engine, BERNOULLI, out, key, counter, threshold(probability))


def threshold(probability: float) -> int:
    """Return below what a word's upper 24 bits lie with a probability of 0 to 1."""
    if not 0 <= probability <= 1:
        raise KernelError(f"a probability lies in 0..1, not at {probability}")
    return round(probability * (1 << 24))


def _run(
    engine: Engine,
    operation: Operation,
    out: Array,
    key: tuple[int, int],
    counter: int,
    *numbers: int,
) -> None:
    check_type("random numbers", out, np.float32)
    if not all(0 <= word < 1 << 32 for word in key) or not 0 <= counter < 1 << 128:
        raise KernelError("random numbers take a key of two 32-bit words and a counter of 128 bits")
    stream = (out.size, counter & _WORD, counter >> 64, *key)
    engine.run(operation, (out,), (*stream, *numbers), items=-(-out.size // 4), grain=GRAIN)


def uniform_twin(out: np.ndarray, size: int, low: int, high: int, *key: int) -> None:
    """Fill `out` with uniforms in [0, 1)."""
    out.reshape(-1)[...] = uniforms(size, (key[0], key[1]), high << 64 | low)


def normal_twin(out: np.ndarray, size: int, low: int, high: int, *key: int) -> None:
    """Fill `out` with standard normals."""
    u = uniforms(-(-size // 4) * 4, (key[0], key[1]), high << 64 | low).astype(out.dtype)
    radius = np.sqrt(-2 * np.log(1 - u[::2]))
    angle = u[1::2] * (2 * np.pi)
    pairs = np.stack((radius * np.cos(angle), radius * np.sin(angle)), axis=1)
    out.reshape(-1)[...] = pairs.reshape(-1)[:size]


def bernoulli_twin(
    out: np.ndarray, size: int, low: int, high: int, key_low: int, key_high: int, below: int
) -> None:
    """Fill `out` with ones and zeros."""
    u = uniforms(size, (key_low, key_high), high << 64 | low)
    out.reshape(-1)[...] = u < below * 2.0**-24


_STREAM = (np.uint64, np.uint64, np.uint64, np.uint32, np.uint32)
UNIFORM = Operation("uniform_numbers", "random.cl", 1, _STREAM, uniform_twin)
NORMAL = Operation("normal_numbers", "random.cl", 1, _STREAM, normal_twin)
BERNOULLI = Operation("bernoulli_numbers", "random.cl", 1, (*_STREAM, np.uint32), bernoulli_twin)
