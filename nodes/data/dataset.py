"""A data set in memory, and how minibatches are taken from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from nodes.data.config import Task
from nodes.data.schema import Schema
from nodes.data.transform import Floats, Transform
from paramserver.phrases import counted

Features = npt.NDArray[np.float32] | npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int32] | npt.NDArray[np.float32]

PIXEL = 1.0 / 255.0


@dataclass(frozen=True, repr=False, eq=False)
class Dataset:
    """Training, validation and test rows, checked: each number finite, each label in range.

    ``train_x``, ``validation_x`` and ``test_x`` are [rows, features], and all float32, prepared by
    the schema's transform, or all uint8, prepared as a minibatch is taken. ``train_y`` and the others
    are int32 [rows] in 0..outputs-1 in a classification, float32 [rows, outputs] in a regression.
    Validation and test may have no rows.
    """

    name: str
    schema: Schema
    train_x: Features
    train_y: Labels
    validation_x: Features
    validation_y: Labels
    test_x: Features
    test_y: Labels

    def __repr__(self) -> str:
        what = ("class", "classes") if self.task == "classification" else ("target",)
        held = f"{len(self.test_x):,} test rows"
        if len(self.validation_x):
            held = f"{len(self.validation_x):,} validation and {held}"
        between = ", " if len(self.validation_x) else " and "
        return (
            f"<Dataset {self.name}: {len(self.train_x):,} training{between}{held}, "
            f"{counted(self.features, 'feature')}, {counted(self.outputs, *what)}>"
        )

    @property
    def task(self) -> Task:
        """Whether classes or numbers are learnt."""
        return self.schema.task

    @property
    def features(self) -> int:
        """How many numbers make one example."""
        return self.schema.features

    @property
    def shape(self) -> tuple[int, ...]:
        """One example's shape before it was made flat."""
        return self.schema.shape

    @property
    def outputs(self) -> int:
        """How many classes or targets there are."""
        return self.schema.outputs

    @property
    def class_names(self) -> tuple[str, ...]:
        """What the classes are called; empty where they are numbers from 0."""
        return self.schema.class_names

    @property
    def transform(self) -> Transform:
        """How raw features were prepared, or are as a minibatch is taken."""
        return self.schema.transform

    @property
    def scale(self) -> float:
        """What rows still have to be multiplied by: 1 unless they are uint8."""
        return self.transform.scale if self.train_x.dtype == np.uint8 else 1.0

    def buffers(self, rows: int) -> tuple[Floats, Labels]:
        """Return new arrays that hold a minibatch of ``rows``: inputs and labels or targets."""
        x = np.zeros((rows, self.features), np.float32)
        if self.task == "classification":
            return x, np.zeros(rows, np.int32)
        return x, np.zeros((rows, self.outputs), np.float32)

    def batch(self, indices: npt.NDArray[np.int64], x: Floats, y: npt.NDArray[Any]) -> None:
        """Copy the training rows ``indices`` into ``x`` and ``y``, prepared.

        Raises IndexError where an index is outside the training rows.
        """
        np.take(self.train_y, indices, axis=0, out=y)
        if self.train_x.dtype == np.uint8:
            self.transform.apply(np.take(self.train_x, indices, axis=0), x)
        else:
            np.take(self.train_x, indices, axis=0, out=x)

    def validation_batch(self, start: int, stop: int, x: Floats, y: npt.NDArray[Any]) -> None:
        """Copy the validation rows ``[start, stop)`` into ``x`` and ``y``, prepared."""
        y[...] = self.validation_y[start:stop]
        self._prepare(self.validation_x[start:stop], x)

    def test_batch(self, start: int, stop: int, x: Floats, y: npt.NDArray[Any]) -> None:
        """Copy the test rows ``[start, stop)`` into ``x`` and ``y``, prepared."""
        y[...] = self.test_y[start:stop]
        self._prepare(self.test_x[start:stop], x)

    def _prepare(self, rows: Features, x: Floats) -> None:
        if rows.dtype == np.uint8:
            self.transform.apply(rows, x)
        else:
            x[...] = rows

    def fingerprint(self) -> str:
        """Return a checksum of all that training depends on: equal data, equal text (xxh3-128)."""
        digest = xxhash.xxh3_128()
        digest.update(f"{self.task} {self.outputs} {self.shape} {self.scale!r}".encode())
        for array in (
            *(self.train_x, self.train_y),
            *(self.validation_x, self.validation_y),
            *(self.test_x, self.test_y),
        ):
            digest.update(f"{array.dtype} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        return digest.hexdigest()
