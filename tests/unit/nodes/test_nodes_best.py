"""The best model's file is the one that the run table means, whatever life it is from."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from nodes.data import Schema
from nodes.models import Model
from nodes.models.config import ModelConfig
from nodes.models.file import validation_of
from nodes.training.best import bring_best, link
from nodes.training.result import BEST_FILE, write_model

MODEL = Model(ModelConfig.model_validate({"layers": [{}]}), (2,), 3)


def write(path: Path, epoch: int) -> dict[str, Any]:
    found = {"epoch": epoch, "steps": epoch * 10, "loss": 0.1 * epoch, "accuracy": 0.5}
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = np.zeros(MODEL.size, np.float32)
    write_model(path, weights, MODEL, Schema("classification", (2,), 3), "{}", found)
    return found


def checkpoint(folder: Path, best: dict[str, Any] | None) -> Any:
    return SimpleNamespace(folder=folder, table={"judge": {"best": best}})


def test_what_fits_stays(tmp_path: Path) -> None:
    best = write(tmp_path / BEST_FILE, 3)
    bring_best(checkpoint(tmp_path / "c", best), tmp_path, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [BEST_FILE]


def test_what_a_life_set_aside_found_is_replaced_by_the_checkpoints(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    best = write(tmp_path / "c" / BEST_FILE, 2)
    ahead = write(folder / BEST_FILE, 5)
    bring_best(checkpoint(tmp_path / "c", best), folder, folder)
    assert validation_of(folder / BEST_FILE) == best
    assert validation_of(folder / "best-epoch-5.safetensors") == ahead
    # The next best takes the name, and the checkpoint keeps its own.
    write(folder / BEST_FILE, 7)
    assert validation_of(tmp_path / "c" / BEST_FILE) == best


def test_another_folder_gets_the_best_of_the_run(tmp_path: Path) -> None:
    best = write(tmp_path / "old" / BEST_FILE, 2)
    (tmp_path / "new").mkdir()
    bring_best(checkpoint(tmp_path / "c", best), tmp_path / "old", tmp_path / "new")
    assert validation_of(tmp_path / "new" / BEST_FILE) == best
    bring_best(checkpoint(tmp_path / "c", None), tmp_path / "old", tmp_path / "new")
    assert not (tmp_path / "new" / BEST_FILE).exists(), "nothing was validated yet"


def test_no_model_is_no_error(tmp_path: Path) -> None:
    link(tmp_path / BEST_FILE, tmp_path / "there")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "damaged").write_bytes(b"x")
    assert validation_of(tmp_path / "damaged") is None
