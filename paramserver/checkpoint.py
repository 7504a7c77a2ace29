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
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import xxhash
from pydantic import Field, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from kernels.rules import state_count
from paramserver.errors import BadCheckpoint, NotReady
from paramserver.placement import slice_bounds
from paramserver.slices import Floats, aligned
from paramserver.spec import Frozen, RunSpec

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


Count = Annotated[int, Field(ge=0, le=1 << 62)]


class _File(Frozen):
    bytes: Count
    xxh3: str


class _Manifest(Frozen):
    format: str
    clock: Count
    written: float
    spec: RunSpec
    table: dict[str, Any]
    versions: list[tuple[Count, Count]]
    files: dict[str, _File]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint as its manifest tells it; `load` has held every file against its checksum.

    ``table`` is what `paramserver.runsave.save` returned, ``versions`` int64 [slices, 2].
    """

    folder: Path
    spec: RunSpec
    clock: int
    written: float
    table: Mapping[str, Any]
    versions: npt.NDArray[np.int64]

    def states(self) -> tuple[Floats, ...]:
        """Read the update rule's state: float32 [size] each.

        Raises:
            BadCheckpoint: the file does not hold the state of the run's rule.
        """
        count, size = state_count(self.spec.table.rule.name), self.spec.table.size
        try:
            tensors = load_file(self.folder / STATE_FILE)
            states = tuple(tensors[f"state.{index}"] for index in range(count))
        except (OSError, SafetensorError, KeyError) as error:
            raise BadCheckpoint(f"checkpoint {self.folder}: {STATE_FILE}: {error}") from error
        if any(one.dtype != np.float32 or one.shape != (size,) for one in states):
            raise BadCheckpoint(f"checkpoint {self.folder}: {STATE_FILE} is of another table")
        return states


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

    ``write_model`` writes the weights to the path that it is given. The run's attempt must be above
    those of all lives whose checkpoints lie there: see `next_attempt`.

    Raises:
        NotReady: the disk is full, or the folder cannot be written to; those before it stay.
    """
    clock = int(table["clock"] if table["consistency"] == "bsp" else table["steps"])
    final = parent / f"{spec.name}-{spec.attempt}-{clock:09d}"
    part = parent / f".{final.name}.part"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        _clear(parent)
        if final.exists():
            return final  # this life's own: nothing was trained since
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
    with contextlib.suppress(OSError):
        for old in _folders(parent)[keep:]:
            if old != final:
                shutil.rmtree(old, ignore_errors=True)
    return final


def next_attempt(parent: Path, checkpoint: Checkpoint) -> int:
    """Return the attempt of a life that goes on from a checkpoint and writes into ``parent``.

    It is above that of every life there, so that what it writes counts as the newest.
    """
    with contextlib.suppress(OSError):
        found = [_age(folder)[0] for folder in _folders(parent)]
        return max(checkpoint.spec.attempt, *found, 0) + 1
    return checkpoint.spec.attempt + 1


def load(folder: Path) -> Checkpoint:
    """Read a checkpoint and check all of it.

    Raises:
        BadCheckpoint: a file is missing or damaged, or it is of another version.
    """
    manifest = _manifest(folder)
    if set(manifest.files) != {STATE_FILE, MODEL_FILE}:
        raise BadCheckpoint(f"checkpoint {folder}: it tells of other files: {list(manifest.files)}")
    for name, described in manifest.files.items():
        try:
            found = _describe(folder / name)
        except OSError as error:
            raise BadCheckpoint(
                f"checkpoint {folder}: cannot read {name}: {error.strerror or error}"
            ) from error
        if found != described.model_dump():
            raise BadCheckpoint(
                f"checkpoint {folder}: {name} is damaged ({found['bytes']} bytes, checksum "
                f"{found['xxh3']}; written were {described.bytes}, {described.xxh3})"
            )
    slices = len(slice_bounds(manifest.spec.table.size)) - 1
    if len(manifest.versions) != slices:
        raise BadCheckpoint(f"checkpoint {folder}: it tells of {len(manifest.versions)} slices")
    return Checkpoint(
        folder,
        manifest.spec,
        manifest.clock,
        manifest.written,
        manifest.table,
        np.array(manifest.versions, np.int64),
    )


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
            f"{path} holds no checkpoint: give the folder of a run that was saved (see "
            "checkpoint.every), or of a checkpoint"
        )
    for folder in found:
        try:
            return load(folder)
        except BadCheckpoint as error:
            warn(f"{error}; looking at the one before it")
    raise BadCheckpoint(f"{path}: all {len(found)} checkpoints are damaged")


def _manifest(folder: Path) -> _Manifest:
    try:
        document = json.loads((folder / MANIFEST).read_bytes())
    except OSError as error:
        raise BadCheckpoint(
            f"checkpoint {folder}: cannot read {MANIFEST}: {error.strerror}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise BadCheckpoint(f"checkpoint {folder}: {MANIFEST} is damaged: {error}") from error
    if not isinstance(document, dict):
        raise BadCheckpoint(f"checkpoint {folder}: {MANIFEST} is damaged: it holds no object")
    known = document.get("format")
    if known != FORMAT:
        raise BadCheckpoint(f"checkpoint {folder}: its format is {known!r}, this reads {FORMAT!r}")
    checksum = document.pop("checksum", None)
    if _checksum(document) != checksum:
        raise BadCheckpoint(f"checkpoint {folder}: {MANIFEST} is damaged: its checksum is wrong")
    try:
        return _Manifest.model_validate(document)
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise BadCheckpoint(
            f"checkpoint {folder}: {MANIFEST} is damaged: {where}: {error.errors()[0]['msg']}"
        ) from error


def _age(folder: Path) -> tuple[int, int]:
    """Return attempt and clock as a checkpoint's name tells them."""
    _, attempt, clock = folder.name.rsplit("-", 2)
    return int(attempt), int(clock)


def _folders(parent: Path) -> list[Path]:
    """Return the checkpoints in a folder, the newest first, by attempt and clock in their names."""
    found = []
    for folder in parent.iterdir():
        with contextlib.suppress(ValueError):
            if not folder.name.startswith(".") and folder.is_dir():
                found.append((_age(folder), folder))
    return [folder for _, folder in sorted(found, reverse=True)]


def _clear(parent: Path) -> None:
    """Remove what a writer that died left unfinished."""
    for left in parent.glob(".*.part"):
        shutil.rmtree(left, ignore_errors=True)


def _describe(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(2, "no such file", str(path))
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
