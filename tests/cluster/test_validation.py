"""Validation on the cluster: merged exactly, the best model kept, training stopped in time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from nodes.models.file import validation_of
from nodes.training.result import BEST_FILE
from tests.support.cluster import recipe_of, train


@pytest.mark.parametrize("consistency", ["bsp", "ssp", "asp"])
async def test_a_run_stops_when_validation_gets_no_better(tmp_path: Path, consistency: str) -> None:
    recipe = recipe_of(
        consistency=consistency,
        train__epochs=200,
        train__rate=0.1,
        train__rule="sgd",
        data__validation=0.2,
        early_stopping={"patience": 2, "metric": "accuracy"},
    )
    result, _ = await train(recipe, tmp_path, shards=1, workers=2)
    assert (result.status, result.error) == ("done", None)
    assert "early stopping: validation accuracy not better" in str(result.stopped_because)
    assert result.validation is not None
    best, last = result.validation["best"], result.validation["last"]
    assert last["epoch"] == result.epochs == best["epoch"] + 2 < 200
    assert last["accuracy"] <= best["accuracy"]
    assert result.examples == result.epochs * 1151  # each epoch whole: 1438 less a fifth
    assert (result.accuracy or 0.0) > 0.8, "the test data are evaluated at the end"


async def test_validation_is_the_same_whoever_computes_and_the_best_weights_are_kept(
    tmp_path: Path,
) -> None:
    seen: list[Any] = []
    for number, (shards, workers) in enumerate([(1, 1), (2, 3)]):
        recipe = recipe_of(
            train__epochs=6,
            train__parts=3,
            train__rate=0.5,
            data__validation=0.3,
            early_stopping={"metric": "accuracy"},
        )
        folder = tmp_path / str(number)
        folder.mkdir()
        result, weights = await train(recipe, folder, shards=shards, workers=workers, device="auto")
        tensors = load_file(folder / BEST_FILE)
        best = np.concatenate([tensors[name].ravel() for name in sorted(tensors)])
        assert result.validation is not None
        for place in (folder, Path(str(result.checkpoint))):
            assert validation_of(place / BEST_FILE) == result.validation["best"]
        seen.append((result.validation, result.test_loss, best.tobytes(), weights.tobytes()))
    assert seen[0] == seen[1]
