"""The file of a trained model, ``model.safetensors``: all that it takes to predict on raw data.

It is plain safetensors, which any reader of that format opens:

    from safetensors import safe_open
    with safe_open("model.safetensors", "numpy") as file:
        weight, facts = file.get_tensor("layers.0.weight"), file.metadata()

Tensors, for each layer i from 0 that has weights; a dense layer's output is ``activation(x @ weight
+ bias)``, a convolution's that of PyTorch's conv2d with its activation:

    layers.<i>.weight   float32 [inputs, units], conv2d: [filters, channels, height, width]
    layers.<i>.bias     float32 [units], conv2d: [filters]
    input.mean          float64 [features], only where the data was standardised
    input.factor        float64 [features], as above

Raw features become the first layer's x by ``(raw - input.mean) * input.factor``, or by ``raw *
scale`` where there are no such tensors. The last layer's outputs are numbers as they are in a
regression, and in a classification become probabilities by softmax.

Metadata, all of it text:

    format     paramserver-model/3 (2, in which all layers were dense, is read too)
    model      JSON: task (classification or regression), shape (of one example, its product is the
               number of features), outputs, class_names (empty where the classes are numbers from 0),
               scale, and network: layers (each with its type and what that takes), input_shape,
               loss, init
    recipe     JSON: the recipe it was trained by
    validation JSON, only of a run's best model: epoch, steps, loss and accuracy of its validation
    checksum   xxh3-128, in hex, of the texts model and recipe and of the tensors' bytes in the order
               of their names; it is checked where it is there, so who changes a file leaves it out
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import xxhash
from pydantic import Field, ValidationError, model_validator
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from nodes.data import Schema, Transform
from nodes.data.config import Task
from nodes.errors import ModelError
from nodes.models.config import ModelConfig
from nodes.models.model import Model
from paramserver.config import Positive, Section, fault

Floats = npt.NDArray[np.float32]

FORMAT = "paramserver-model/3"
READ = (FORMAT, "paramserver-model/2")
MEAN, FACTOR = "input.mean", "input.factor"


@dataclass(frozen=True, eq=False)
class Saved:
    """What a model's file holds; ``weights`` is flat float32, in the model's layout."""

    model: Model
    schema: Schema
    weights: Floats
    recipe: str


class _Facts(Section):
    """The metadata's ``model``."""

    task: Task
    shape: Annotated[tuple[Positive, ...], Field(min_length=1)]
    outputs: Positive
    class_names: tuple[str, ...]
    scale: float
    network: ModelConfig

    @model_validator(mode="after")
    def _check(self) -> _Facts:
        if self.class_names and len(self.class_names) != self.outputs:
            raise fault("class_names", f"{len(self.class_names)} names for {self.outputs} classes")
        if self.network.layers[-1].units not in (None, self.outputs):
            raise fault("outputs", f"{self.outputs}, but the last layer has another number")
        loss = self.network.loss or "cross_entropy"
        if (self.task == "classification") != (loss == "cross_entropy"):
            raise fault("task", f"{self.task} with the loss {loss}")
        return self


def pack(
    weights: Floats,
    model: Model,
    schema: Schema,
    recipe: str,
    validation: Mapping[str, Any] | None = None,
) -> bytes:
    """Return a model's file; ``weights`` is flat float32 and ``recipe`` JSON."""
    tensors: dict[str, npt.NDArray[Any]] = {
        one.name: np.ascontiguousarray(weights[one.offset : one.offset + one.size]).reshape(
            one.shape
        )
        for one in model.layout
    }
    transform = schema.transform
    if transform.mean is not None and transform.factor is not None:
        tensors |= {MEAN: transform.mean, FACTOR: transform.factor}
    network = model.resolved()
    facts = _Facts(
        task=schema.task,
        shape=schema.shape,
        outputs=schema.outputs,
        class_names=schema.class_names,
        scale=transform.scale,
        network=network,
    ).model_dump_json()
    metadata = {
        "format": FORMAT,
        "model": facts,
        "recipe": recipe,
        "checksum": _checksum(tensors, facts, recipe),
    }
    if validation is not None:
        metadata["validation"] = json.dumps(validation)
    return save(tensors, metadata=metadata)


def unpack(path: Path) -> Saved:
    """Read a model's file.

    Raises:
        ModelError: it is missing, damaged, or no model of this package; one line that names it.
    """
    try:
        with safe_open(path, "numpy") as file:
            return _unpack(path, file)
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file") from None
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror or error}") from None
    except SafetensorError as error:
        raise ModelError(f"{path}: damaged, or not a safetensors file: {error}") from None


def validation_of(path: Path) -> dict[str, Any] | None:
    """Return what validation found of a model; None where its file does not say, or is none."""
    try:
        with safe_open(path, "numpy") as file:
            found = json.loads((file.metadata() or {}).get("validation", "null"))
    except (OSError, SafetensorError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _unpack(path: Path, file: Any) -> Saved:
    metadata: Mapping[str, str] = file.metadata() or {}
    if metadata.get("format") not in READ:
        raise ModelError(
            f"{path}: not a model of this version of paramserver: its metadata says format "
            f"{metadata.get('format')!r} instead of {FORMAT!r}"
        )
    try:
        facts = _Facts.model_validate_json(metadata.get("model", ""))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in ("model", *first["loc"]))
        raise ModelError(f"{path}: damaged: metadata {place}: {first['msg']}") from None
    schema = Schema(facts.task, facts.shape, facts.outputs, facts.class_names)
    try:
        model = Model(facts.network, schema.shape, schema.outputs)
    except ModelError as error:
        raise ModelError(f"{path}: damaged: metadata {error}") from None
    wanted = {one.name: ("F32", list(one.shape)) for one in model.layout}
    names = set(file.keys())
    if MEAN in names or FACTOR in names:
        wanted |= dict.fromkeys((MEAN, FACTOR), ("F64", [schema.features]))
    # Every shape before any tensor is read.
    for name in sorted(names | set(wanted)):
        there = file.get_slice(name) if name in names else None
        found = (there.get_dtype(), there.get_shape()) if there is not None else "missing"
        if name not in wanted:
            raise ModelError(f"{path}: tensor {name} belongs to no layer that its metadata names")
        if found != wanted[name]:
            raise ModelError(
                f"{path}: tensor {name} is {_shown(found)}, not {_shown(wanted[name])}"
            )
    tensors = {name: file.get_tensor(name) for name in wanted}
    broken = next((name for name in wanted if not np.isfinite(tensors[name]).all()), None)
    if broken is not None:
        raise ModelError(f"{path}: damaged: tensor {broken} is not finite")
    checksum = _checksum(tensors, metadata["model"], metadata.get("recipe", ""))
    if metadata.get("checksum", checksum) != checksum:
        raise ModelError(f"{path}: damaged: its content has another checksum than it says")
    weights = np.empty(model.size, np.float32)
    for one in model.layout:
        weights[one.offset : one.offset + one.size] = tensors[one.name].reshape(-1)
    transform = Transform(facts.scale, tensors.get(MEAN), tensors.get(FACTOR))
    schema = replace(schema, transform=transform)
    return Saved(model, schema, weights, metadata.get("recipe", ""))


def _checksum(tensors: Mapping[str, npt.NDArray[Any]], *texts: str) -> str:
    digest = xxhash.xxh3_128()
    for text in texts:
        digest.update(text.encode())
    for name in sorted(tensors):
        digest.update(np.ascontiguousarray(tensors[name]).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _shown(found: tuple[str, list[int]] | str) -> str:
    return found if isinstance(found, str) else f"{found[0]} {found[1]}"
