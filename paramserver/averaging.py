"""The mean of weights, weighted by examples: summed in float64, rounded to float32 once.

A product of a float32 and fewer than 2^29 examples is exact in float64, so all that is lost before
the last rounding is what sums of such products lose. Parts are added in part order.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

CHUNK = 16384
"""Elements weighted at a time, so that the sum itself is all the memory that this takes."""


def add_weighted(total: Doubles, weights: Floats, examples: int, *, first: bool) -> None:
    """Add ``examples`` times ``weights`` to ``total``, or begin it with them; a part of none adds 0."""
    factor = np.float64(examples)
    if first:
        np.multiply(weights, factor, out=total, dtype=np.float64)
        return
    scratch = np.empty(min(CHUNK, total.size))
    for start in range(0, total.size, CHUNK):
        piece = total[start : start + CHUNK]
        weighted = scratch[: piece.size]
        np.multiply(weights[start : start + CHUNK], factor, out=weighted, dtype=np.float64)
        np.add(piece, weighted, out=piece)


def divide(total: Doubles, examples: int, out: Floats) -> None:
    """Write ``total`` divided by ``examples`` to ``out``, rounded to float32."""
    np.divide(total, np.float64(examples), out=out, casting="same_kind")
