"""What a run leaves behind: the result, and the model as a safetensors file."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nodes.data import Schema
from nodes.models import Model
from nodes.models.file import pack
from paramserver.errors import NotReady

Floats = npt.NDArray[np.float32]

MODEL_FILE = "model.safetensors"
BEST_FILE = "best.safetensors"
RESULT_FILE = "result.json"


@dataclass(slots=True)
class Result:
    """A run's result as ``--json`` prints it; ``accuracy`` and ``test_loss`` are over test data.

    ``seconds`` is training only, ``total_seconds`` from the command to its end, ``longest_pause``
    the longest time between two steps of the run.
    """

    run: str
    recipe: str
    status: str = "failed"
    error: str | None = None
    epochs: int = 0
    steps: int = 0
    examples: int = 0
    repeated_examples: int = 0
    seconds: float = 0.0
    total_seconds: float = 0.0
    longest_pause: float = 0.0
    samples_per_second: float = 0.0
    loss: float | None = None
    test_loss: float | None = None
    accuracy: float | None = None
    staleness: dict[str, float] = field(
        default_factory=lambda: {"mean": 0.0, "max": 0, "versions_mean": 0.0}
    )
    pushes: dict[str, int] = field(
        default_factory=lambda: {"applied": 0, "duplicate": 0, "refused": 0}
    )
    peers: int = 0
    device: str | None = None
    output: str | None = None
    checkpoint: str | None = None
    stopped_because: str | None = None
    validation: dict[str, Any] | None = None
    exit_code: int = 1

    def take(self, state: Mapping[str, Any]) -> None:
        """Take over what the run table's snapshot says."""
        for key in (
            "status",
            "error",
            "epochs",
            "steps",
            "examples",
            "repeated_examples",
            "seconds",
            "longest_pause",
            "samples_per_second",
            "loss",
            "test_loss",
            "pushes",
            "stopped_because",
        ):
            setattr(self, key, state[key])
        self.accuracy = state["test_accuracy"]
        found = state["validation"]
        if found["last"] is not None:
            self.validation = {"last": found["last"], "best": found["best"]}
        devices = {worker["device"] for worker in state["workers"].values()}
        if devices:
            self.device = ", ".join(sorted(devices))
        self.staleness = {key: state["staleness"][key] for key in ("mean", "max", "versions_mean")}
        self.exit_code = 0 if self.status in ("done", "stopped") else state["exit_code"] or 1

    def dump(self) -> dict[str, Any]:
        """Return what ``--json`` prints: all but the exit code."""
        values = asdict(self)
        del values["exit_code"]
        return values

    def line(self) -> str:
        """Return the result as one line of JSON; numbers that are not finite are null."""
        return json.dumps(_finite(self.dump()), allow_nan=False)

    def write(self) -> None:
        """Write ``result.json`` into the run's folder, where there is one."""
        if self.output is not None:
            write_whole(Path(self.output) / RESULT_FILE, self.line().encode() + b"\n")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole or not at all.

    Raises:
        NotReady: the disk is full, or the folder cannot be written to.
    """
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise NotReady(f"cannot write {path}: {error.strerror}: free some space there") from error


def write_model(
    path: Path,
    weights: Floats,
    model: Model,
    schema: Schema,
    recipe: str,
    validation: Mapping[str, Any] | None = None,
) -> None:
    """Write a model's file, from flat ``weights`` and its recipe as JSON; see `nodes.models.file`.

    Raises:
        NotReady: as `write_whole`.
    """
    write_whole(path, pack(weights, model, schema, recipe, validation))
