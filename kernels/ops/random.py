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


def _run(
    engine: Engine, operation: Operation, out: Array, key: tuple[int, int], counter: int
) -> None:
    check_type("random numbers", out, np.float32)
    if not all(0 <= word < 1 << 32 for word in key) or not 0 <= counter < 1 << 128:
        raise KernelError("random numbers take a key of two 32-bit words and a counter of 128 bits")
    numbers = (out.size, counter & _WORD, counter >> 64, *key)
    engine.run(operation, (out,), numbers, items=-(-out.size // 4), grain=GRAIN)


def uniform_twin(out: np.ndarray, size: int, low: int, high: int, *key: int) -> None:
    """Fill `out` with uniforms in [0, 1)."""
    out.reshape(-1)[...] = uniforms(size, (key[0], key[1]), high << 64 | low)


_STREAM = (np.uint64, np.uint64, np.uint64, np.uint32, np.uint32)
UNIFORM = Operation("uniform_numbers", "random.cl", 1, _STREAM, uniform_twin)
