"""Checkpoints on disk: whole or absent, checked on reading, the last few kept.

A checkpoint is a folder named by run, attempt and clock (outside bsp: server updates):

    manifest.json        what it is: run, attempt, clock, the run's specification with its recipe, the
                         run table's state, per slice its (n, clock), size and checksum of each file
    state.safetensors    the update rule's state: float32 tensors ``state.0``, ``state.1``, … [size]
    model.safetensors    the weights, written and read by who knows the model (`nodes`)

It is written beside its place under a name that begins with a dot, every file and the folder are
synced, and one rename puts it there. A crash at any moment leaves the checkpoints before it alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from kernels.rules import state_count
from paramserver.errors import BadCheckpoint, NotReady
from paramserver.placement import slice_bounds
from paramserver.spec import RunSpec
from paramserver.store import Floats, aligned

FORMAT = "paramserver-checkpoint/1"
MANIFEST = "manifest.json"
STATE_FILE = "state.safetensors"
MODEL_FILE = "model.safetensors"
FOLDER = "checkpoints"
BLOCK = 1 << 20


@dataclass(slots=True)
class TableState:
    """A table as of one moment: weights, the rule's state, and per slice its (n, clock).

    ``n`` counts the updates of a slice. Arrays are float32 [size], versions int64 [slices, 2].
    """

    weights: Floats
    states: tuple[Floats, ...]
    versions: npt.NDArray[np.int64]

    @classmethod
    def empty(cls, size: int, rule: str) -> TableState:
        """Return room for a table of ``size`` elements under the rule of this name."""
        arrays = [aligned(size) for _ in range(1 + state_count(rule))]
        versions = np.zeros((len(slice_bounds(size)) - 1, 2), np.int64)
        return cls(arrays[0], tuple(arrays[1:]), versions)

    @property
    def arrays(self) -> tuple[Floats, ...]:
        """The weights, then each state."""
        return (self.weights, *self.states)

    @property
    def updates(self) -> int:
        """The most updates that any slice holds."""
        return int(self.versions[:, 0].max())


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint as its manifest tells it; `load` has checked every file.

    ``table`` is what `paramserver.runsave.save` returned, ``versions`` int64 [slices, 2].
    """

    folder: Path
    spec: RunSpec
    clock: int
    written: float
    table: Mapping[str, Any]
    versions: npt.NDArray[np.int64]

    def states(self) -> tuple[Floats, ...]:
        """Read the update rule's state: float32 [size] each."""
        tensors = load_file(self.folder / STATE_FILE)
        return tuple(tensors[f"state.{index}"] for index in range(len(tensors)))


def write(
    parent: Path,
    spec: RunSpec,
    table: Mapping[str, Any],
    state: TableState,
    write_model: Callable[[Path], None],
    *,
    keep: int,
) -> Path:
    """Write a checkpoint under ``parent`` and remove all but the last ``keep``; return its folder.

    ``write_model`` writes the weights to the path that it is given.

    Raises:
        NotReady: the disk is full, or the folder cannot be written to; nothing was changed.
    """
    clock = int(table["clock"] if table["consistency"] == "bsp" else table["steps"])
    final = parent / f"{spec.name}-{spec.attempt}-{clock:09d}"
    part = parent / f".{final.name}.part"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        _clear(parent)
        if final.exists():
            return final  # nothing was trained since
        part.mkdir()
        save_file(
            {f"state.{index}": values for index, values in enumerate(state.states)},
            part / STATE_FILE,
        )
        write_model(part / MODEL_FILE)
        manifest = {
            "format": FORMAT,
            "clock": clock,
            "written": time.time(),
            "spec": spec.model_dump(mode="json"),
            "table": dict(table),
            "versions": state.versions.tolist(),
            "files": {name: _describe(part / name) for name in (STATE_FILE, MODEL_FILE)},
        }
        text = json.dumps({**manifest, "checksum": _checksum(manifest)}, allow_nan=False)
        (part / MANIFEST).write_text(text + "\n", encoding="utf-8")
        for path in (*part.iterdir(), part):
            _sync(path)
        part.rename(final)
        _sync(parent)
    except (OSError, SafetensorError, NotReady) as error:
        shutil.rmtree(part, ignore_errors=True)
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise NotReady(f"cannot write the checkpoint {final}: {why}") from error
    for old in _folders(parent)[keep:]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def load(folder: Path) -> Checkpoint:
    """Read a checkpoint and check all of it.

    Raises:
        BadCheckpoint: a file is missing or damaged, or it is of another version.
    """
    manifest = _manifest(folder)
    try:
        for name, described in manifest["files"].items():
            found = _describe(folder / name)
            if found != described:
                raise BadCheckpoint(
                    f"checkpoint {folder}: {name} is damaged ({found['bytes']} bytes, checksum "
                    f"{found['xxh3']}; written were {described['bytes']}, {described['xxh3']})"
                )
        spec = RunSpec.model_validate(manifest["spec"])
        versions = np.array(manifest["versions"], np.int64)
        slices = len(slice_bounds(spec.table.size)) - 1
        if versions.shape != (slices, 2):
            raise BadCheckpoint(f"checkpoint {folder}: it tells of {len(versions)} slices")
        return Checkpoint(
            folder, spec, manifest["clock"], manifest["written"], manifest["table"], versions
        )
    except OSError as error:
        raise BadCheckpoint(
            f"checkpoint {folder}: cannot read {error.filename}: {error.strerror}"
        ) from error
    except (KeyError, TypeError, ValueError, AttributeError, ValidationError) as error:
        raise BadCheckpoint(f"checkpoint {folder}: {MANIFEST} is damaged: {error!r}") from error


def load_latest(path: Path, warn: Callable[[str], None]) -> Checkpoint:
    """Read the newest good checkpoint of a run's folder, or the one that ``path`` is.

    A damaged one of a run's folder is named through ``warn``, and the one before it is taken.

    Raises:
        BadCheckpoint: there is none that is good.
    """
    if (path / MANIFEST).exists():
        return load(path)
    parent = path / FOLDER if (path / FOLDER).is_dir() else path
    found = _folders(parent) if parent.is_dir() else []
    if not found:
        raise BadCheckpoint(
            f"{path} holds no checkpoint: give the folder of a run or of a checkpoint"
        )
    for folder in found:
        try:
            return load(folder)
        except BadCheckpoint as error:
            warn(f"{error}; looking at the one before it")
    raise BadCheckpoint(f"{path}: all {len(found)} checkpoints are damaged")


def _manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        checksum = manifest.pop("checksum")
        known = manifest.get("format")
    except OSError as error:
        raise BadCheckpoint(
            f"checkpoint {folder}: cannot read {MANIFEST}: {error.strerror}"
        ) from error
    except (ValueError, KeyError, AttributeError) as error:
        raise BadCheckpoint(f"checkpoint {folder}: {MANIFEST} is damaged: {error!r}") from error
    if known != FORMAT:
        raise BadCheckpoint(f"checkpoint {folder}: its format is {known!r}, this reads {FORMAT!r}")
    if _checksum(manifest) != checksum:
        raise BadCheckpoint(f"checkpoint {folder}: {MANIFEST} is damaged: its checksum is wrong")
    return dict(manifest)


def _folders(parent: Path) -> list[Path]:
    """Return the checkpoints in a folder, the newest first, by attempt and clock in their names."""

    def age(folder: Path) -> tuple[int, int]:
        _, attempt, clock = folder.name.rsplit("-", 2)
        return int(attempt), int(clock)

    found = []
    for folder in parent.iterdir():
        with contextlib.suppress(ValueError):
            if not folder.name.startswith(".") and folder.is_dir():
                found.append((age(folder), folder))
    return [folder for _, folder in sorted(found, reverse=True)]


def _clear(parent: Path) -> None:
    """Remove what a writer that died left unfinished."""
    for left in parent.glob(".*.part"):
        shutil.rmtree(left, ignore_errors=True)


def _describe(path: Path) -> dict[str, Any]:
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return {"bytes": path.stat().st_size, "xxh3": digest.hexdigest()}


def _checksum(manifest: Mapping[str, Any]) -> str:
    return xxhash.xxh3_128_hexdigest(json.dumps(manifest, sort_keys=True).encode())


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
