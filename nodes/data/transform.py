"""From raw features to what a network takes: the one way, in training and in prediction alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Transform:
    """Multiplies by ``scale`` in float32, or brings each feature to mean 0 and variance 1.

    The second, where ``mean`` and ``factor`` (float64 [features]) are given, is
    ``(x - mean) * factor`` in float64, rounded to float32 once.
    """

    scale: float = 1.0
    mean: Doubles | None = None
    factor: Doubles | None = None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Transform):
            return NotImplemented
        return (
            self.scale == other.scale
            and _equal(self.mean, other.mean)
            and _equal(self.factor, other.factor)
        )

    @classmethod
    def standardising(cls, x: npt.NDArray[Any]) -> Transform:
        """Return what brings the columns of ``x`` to mean 0 and variance 1; constant ones to 0."""
        mean = x.mean(axis=0, dtype=np.float64)
        deviation = x.std(axis=0, dtype=np.float64)
        return cls(mean=mean, factor=1.0 / np.where(deviation > 0, deviation, 1.0))

    def apply(self, x: npt.NDArray[Any], out: Floats | None = None) -> Floats:
        """Return raw features [rows, features] of any real type as the network takes them.

        ``out``, where given, is float32 [rows, features] and takes them.
        """
        if self.mean is None or self.factor is None:
            scaled: Floats = np.multiply(
                x, self.scale, out=out, dtype=np.float32, casting="same_kind"
            )
            return scaled
        values = np.subtract(x, self.mean, dtype=np.float64, casting="same_kind")
        values *= self.factor
        if out is None:
            out = np.empty(values.shape, np.float32)
        out[...] = values
        return out


def _equal(one: Doubles | None, other: Doubles | None) -> bool:
    if one is None or other is None:
        return one is other
    return bool(np.array_equal(one, other))
