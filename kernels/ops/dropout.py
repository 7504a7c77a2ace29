"""Inverted dropout (Srivastava et al. 2014), whose mask is made again for the way back, not kept.

The mask comes of Philox4x32-10 by a key and a counter that lie in the device's memory, so that steps
which were recorded once (`Engine.recording`) drop others each time: the caller uploads the stream's
new position before each step, and layers of one step take blocks that do not overlap.
"""

from __future__ import annotations

import numpy as np

from kernels.checks import check_same, check_type, check_whole
from kernels.errors import KernelError
from kernels.interface import Array, Engine
from kernels.operation import Operation
from kernels.ops.random import threshold
from kernels.philox import uniforms

GRAIN = 512
"""Blocks that are worth a work-item."""


def stream(key: tuple[int, int], counter: int) -> np.ndarray:
    """Return what to upload as a stream's position: int32[6], the words of key and counter.

    `key` is two 32-bit words, `counter` one of 128 bits.
    """
    if not all(0 <= word < 1 << 32 for word in key) or not 0 <= counter < 1 << 128:
        raise KernelError("a stream takes a key of two 32-bit words and a counter of 128 bits")
    words = (*key, *(counter >> shift & 0xFFFFFFFF for shift in (0, 32, 64, 96)))
    return np.array(words, np.uint32).view(np.int32)


def blocks(size: int) -> int:
    """Return how many blocks of a stream a layer of so many elements takes."""
    return -(-size // 4)


def dropout(
    engine: Engine, x: Array, out: Array, stream: Array, *, rate: float, block: int = 0
) -> None:
    """Set each element to 0 with probability `rate`, and divide the others by 1 - rate.

    The gradient is the same of delta: call it with delta for x. `out` may be x. NaN stay NaN, and
    infinities that are dropped become NaN.

    Args:
        engine: where to compute.
        x: float32, of any shape.
        out: float32, as large.
        stream: int32[6] from the function of that name.
        rate: 0 or more, below 1; in steps of 2^-24.
        block: the first of the stream's blocks that is taken, of `blocks(x.size)`.
    """
    size = check_whole("dropout", x, out)
    check_same("dropout's stream", (stream, (6,)))
    check_type("dropout's stream", stream, np.int32)
    if not 0 <= rate < 1:
        raise KernelError(f"dropout's rate is 0 or more and below 1, not {rate}")
    if not 0 <= block < 1 << 64:
        raise KernelError(f"dropout's first block is one of 64 bits, not {block}")
    numbers = (size, block, threshold(rate), 1 / (1 - rate))
    engine.run(DROPOUT, (x, out, stream), numbers, items=blocks(size), grain=GRAIN)


def dropout_twin(
    x: np.ndarray,
    out: np.ndarray,
    stream: np.ndarray,
    size: int,
    block: int,
    below: int,
    scale: float,
) -> None:
    """Multiply by 0 or `scale`."""
    key_low, key_high, *words = (int(word) for word in stream.view(np.uint32))
    counter = sum(word << shift for word, shift in zip(words, (0, 32, 64, 96), strict=True))
    u = uniforms(size, (key_low, key_high), (counter + block) % (1 << 128))
    factors = (u >= below * 2.0**-24) * out.dtype.type(scale)
    with np.errstate(invalid="ignore"):
        np.multiply(x.reshape(-1), factors, out=out.reshape(-1))


DROPOUT = Operation(
    "dropout", "random.cl", 3, (np.uint64, np.uint64, np.uint32, np.float32), dropout_twin
)
