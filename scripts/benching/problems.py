"""The arrays of products and convolutions, the same for all sides."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from benching.timing import sets_for
from kernels.windows import Window

Floats = npt.NDArray[np.float32]


def factors(form: str, m: int, n: int, k: int) -> list[tuple[Floats, Floats]]:
    """Return sets of factors of a product."""
    source = np.random.default_rng(1)
    return [
        (
            source.random((k, m) if form == "tn" else (m, k), np.float32) - np.float32(0.5),
            source.random((n, k) if form == "nt" else (k, n), np.float32) - np.float32(0.5),
        )
        for _ in range(sets_for(4 * (m * k + k * n + m * n)))
    ]


class Convolution:
    """The arrays of a convolution: sets of images, filters, and what comes back for its output."""

    def __init__(
        self, x: tuple[int, int, int], filters: int, size: int, padding: int, batch: int
    ) -> None:
        source = np.random.default_rng(1)
        self.window = Window((size, size), padding=(padding, padding))
        self.out = (batch, filters, *self.window.over((x[1], x[2])))
        self.sets: list[tuple[Floats, Floats, Floats]] = []
        for _ in range(sets_for(4 * batch * int(np.prod(x)) + 4 * int(np.prod(self.out)))):
            arrays = [
                source.random(shape, np.float32) - np.float32(0.5)
                for shape in ((batch, *x), (filters, x[0], size, size), self.out)
            ]
            self.sets.append((arrays[0], arrays[1], arrays[2]))


def checksum(*arrays: npt.NDArray[Any]) -> float:
    """Return a number by which results are compared, whatever their layout."""
    return sum(float(np.abs(array).sum(dtype=np.float64)) for array in arrays)
