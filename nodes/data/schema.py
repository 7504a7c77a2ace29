"""What a trained model has to know of the data it was trained on."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from nodes.data.config import Task
from nodes.data.transform import Transform


@dataclass(frozen=True)
class Schema:
    """How examples are shaped and prepared, and what is predicted.

    ``shape`` is one example's shape before it was made flat, ``outputs`` the number of classes or
    of targets, ``class_names`` what the classes are called, empty where they are numbers from 0.
    """

    task: Task
    shape: tuple[int, ...]
    outputs: int
    class_names: tuple[str, ...] = ()
    transform: Transform = field(default_factory=Transform)

    @property
    def features(self) -> int:
        """How many numbers make one example."""
        return math.prod(self.shape)

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes' names in order, numbers where they have no others; empty in a regression."""
        if self.task == "regression":
            return ()
        return self.class_names or tuple(str(number) for number in range(self.outputs))
