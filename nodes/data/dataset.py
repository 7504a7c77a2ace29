"""A data set in memory, and how minibatches are taken from it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from nodes.data.config import Task

Features = npt.NDArray[np.float32] | npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int32] | npt.NDArray[np.float32]

PIXEL = 1.0 / 255.0


@dataclass(frozen=True, repr=False, eq=False)
class Dataset:
    """Training and test rows, checked: every number is finite, every label in range.

    ``train_x`` and ``test_x`` are [rows, features], float32, or uint8 to multiply by ``scale``.
    ``train_y`` and ``test_y`` are int32 [rows] in 0..outputs-1 in a classification, float32
    [rows, outputs] in a regression. ``shape`` is one example's shape before it was made flat,
    ``outputs`` the number of classes or of targets, ``class_names`` what the classes are called.
    """

    name: str
    task: Task
    train_x: Features
    train_y: Labels
    test_x: Features
    test_y: Labels
    outputs: int
    shape: tuple[int, ...]
    scale: float = 1.0
    class_names: tuple[str, ...] = ()

    def __repr__(self) -> str:
        what = "classes" if self.task == "classification" else "targets"
        return (
            f"<Dataset {self.name}: {len(self.train_x)} training and {len(self.test_x)} test rows, "
            f"{self.features} features, {self.outputs} {what}>"
        )

    @property
    def features(self) -> int:
        """How many numbers make one example."""
        return math.prod(self.shape)

    def buffers(self, rows: int) -> tuple[npt.NDArray[np.float32], Labels]:
        """Return new arrays that hold a minibatch of ``rows``: inputs and labels or targets."""
        x = np.zeros((rows, self.features), np.float32)
        if self.task == "classification":
            return x, np.zeros(rows, np.int32)
        return x, np.zeros((rows, self.outputs), np.float32)

    def batch(
        self, indices: npt.NDArray[np.int64], x: npt.NDArray[np.float32], y: npt.NDArray[Any]
    ) -> None:
        """Copy the training rows ``indices`` into ``x`` and ``y``, scaled.

        Raises IndexError where an index is outside the training rows.
        """
        np.take(self.train_y, indices, axis=0, out=y)
        if self.train_x.dtype == np.uint8:
            np.multiply(np.take(self.train_x, indices, axis=0), self.scale, out=x, dtype=np.float32)
        else:
            np.take(self.train_x, indices, axis=0, out=x)

    def test_batch(
        self, start: int, stop: int, x: npt.NDArray[np.float32], y: npt.NDArray[Any]
    ) -> None:
        """Copy the test rows ``[start, stop)`` into ``x`` and ``y``, scaled."""
        y[...] = self.test_y[start:stop]
        if self.test_x.dtype == np.uint8:
            np.multiply(self.test_x[start:stop], self.scale, out=x, dtype=np.float32)
        else:
            x[...] = self.test_x[start:stop]

    def fingerprint(self) -> str:
        """Return a checksum of all that training depends on: equal data, equal text (xxh3-128)."""
        digest = xxhash.xxh3_128()
        digest.update(f"{self.task} {self.outputs} {self.shape} {self.scale!r}".encode())
        for array in (self.train_x, self.train_y, self.test_x, self.test_y):
            digest.update(f"{array.dtype} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        return digest.hexdigest()
