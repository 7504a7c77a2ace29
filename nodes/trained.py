"""A trained model as a library has it: load it and predict, with numpy alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nodes.data.classes import name_key
from nodes.data.prepare import fits_float32
from nodes.data.schema import Schema
from nodes.errors import DataError, ModelError
from nodes.models.file import Saved, unpack
from nodes.models.forward import ROWS, Forward, HostForward
from nodes.models.model import Model
from nodes.training.result import MODEL_FILE
from paramserver.config import expanded
from paramserver.phrases import counted

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]


def load(path: str | Path) -> TrainedModel:
    """Load a trained model from a run's or a checkpoint's folder, or from its .safetensors file.

        model = nodes.load("runs/digits-20261120-220620-1c2d")
        probabilities = model.predict(images)

    Raises:
        ModelError: there is none, it is damaged, or of another kind; one line that names the file.
    """
    try:
        place = expanded(path)
    except ValueError as error:
        raise ModelError(str(error)) from None
    if place.is_dir():
        if not (place / MODEL_FILE).is_file():
            raise ModelError(
                f"{place}: no {MODEL_FILE} in it: give the folder of a run that has finished, of a "
                "checkpoint, or a .safetensors file"
            )
        place = place / MODEL_FILE
    return TrainedModel(place, unpack(place))


class TrainedModel:
    """Predicts on raw features, prepared as they were in training; threads may share it."""

    def __init__(self, path: Path, saved: Saved) -> None:
        self.path = path
        self.model: Model = saved.model
        self.schema: Schema = saved.schema
        self.weights = saved.weights
        self._recipe = saved.recipe

    def __repr__(self) -> str:
        what = ("class", "classes") if self.schema.task == "classification" else ("target",)
        return (
            f"<TrainedModel {self.path}: {counted(self.schema.features, 'feature')}, "
            f"{counted(self.schema.outputs, *what)}, {counted(self.model.size, 'parameter')}>"
        )

    @property
    def recipe(self) -> Mapping[str, Any]:
        """The recipe that it was trained by; empty where the file does not say."""
        try:
            recipe = json.loads(self._recipe or "{}")
        except ValueError as error:
            raise ModelError(f"{self.path}: damaged: its recipe is no JSON: {error}") from None
        return recipe if isinstance(recipe, dict) else {}

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes' names in the order of `predict`'s columns; empty in a regression."""
        return self.schema.labels

    def predict(self, x: npt.ArrayLike) -> Floats:
        """Predict on raw features [rows, features], or [rows, *shape] as in training.

        Returns float32: probabilities [rows, classes], or in a regression values [rows, targets]. It
        computes in float64, so that a row's result depends on nothing else that is computed with it.

        Raises:
            DataError: ``x`` has another width, or holds what is no finite number.
        """
        return self.finish(self.outputs(x))

    def classes(self, x: npt.ArrayLike) -> npt.NDArray[Any]:
        """Return each row's most probable class by its name; whole numbers where all names are.

        Raises:
            DataError: as `predict`.
            ModelError: the model is a regression.
        """
        if self.schema.task == "regression":
            raise ModelError(f"{self.path}: a regression has no classes: use predict")
        keys = [name_key(name) for name in self.class_names]
        whole = all(isinstance(key, int) for key in keys)
        chosen: npt.NDArray[Any] = np.array(keys if whole else self.class_names)[
            self.outputs(x).argmax(axis=1)
        ]
        return chosen

    def outputs(self, x: npt.ArrayLike, forward: Forward | None = None) -> Doubles:
        """Compute the last layer's outputs for raw features, before softmax: [rows, outputs].

        ``forward`` is what computes, numpy unless given. Errors as `predict`.
        """
        raw = self._raw(x)
        found = np.empty((len(raw), self.schema.outputs))
        for start in range(0, len(raw), ROWS):
            part = raw[start : start + ROWS]
            with np.errstate(over="ignore", invalid="ignore"):
                prepared = self.schema.transform.apply(part)
            if not np.isfinite(prepared).all():
                row, column = (int(i) for i in np.argwhere(~np.isfinite(prepared))[0])
                raise DataError(
                    f"row {start + row}, feature {column}: {part[row, column]!s} is not a finite "
                    "float32"
                )
            found[start : start + ROWS] = self.run(prepared, forward, start)
        return found

    def run(self, prepared: Floats, forward: Forward | None = None, first: int = 0) -> Doubles:
        """Compute the outputs of prepared rows; ``first`` is the first one's number in errors.

        Raises:
            ModelError: an output is beyond float32.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            found = (forward if forward is not None else self._forward)(prepared)
        fits = fits_float32(found)
        if not fits.all():
            row = int(np.argwhere(~fits)[0][0])
            raise ModelError(f"row {first + row}: the model's output for it is no finite float32")
        return found

    def finish(self, outputs: Doubles) -> Floats:
        """Return `outputs` as `predict` does: as probabilities, or as they are in a regression."""
        if self.schema.task == "classification":
            outputs = np.exp(outputs - outputs.max(axis=1, keepdims=True))
            outputs /= outputs.sum(axis=1, keepdims=True)
        return outputs.astype(np.float32)

    @cached_property
    def _forward(self) -> HostForward:
        return HostForward(self.model, self.weights)

    def _raw(self, x: npt.ArrayLike) -> npt.NDArray[Any]:
        try:
            raw = np.asarray(x)
        except ValueError as error:  # rows of different lengths
            raise DataError(f"the features are no array: {error}") from None
        shape, features = self.schema.shape, self.schema.features
        if raw.dtype.kind not in "buif":
            raise DataError(f"the features are {raw.dtype}, not numbers")
        if raw.ndim < 2 or raw.shape[1:] not in ((features,), shape):
            also = f" or [rows, {', '.join(map(str, shape))}]" if len(shape) > 1 else ""
            raise DataError(
                f"the features are {list(raw.shape)}, but the model takes [rows, {features}]{also}"
            )
        return raw.reshape(len(raw), features)
