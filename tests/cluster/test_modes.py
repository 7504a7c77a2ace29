"""Local training in ssp and asp: differences are added, each push covers a period."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kernels.engine import open_engine
from nodes.training.compute import ModelCompute
from nodes.training.learner import Local
from paramserver.slices import kernel_rule
from paramserver.types import Span
from tests.support.cluster import plan_of, recipe_of, train
from tests.support.computes import Poisoned

TRAIN = {
    "epochs": 2,
    "batch_size": 16,
    "period": 4,
    "rule": "momentum",
    "rate": [[0, 0.05], [20, 0.01]],
}


@pytest.mark.parametrize("consistency", ["ssp", "asp"])
async def test_one_worker_adds_what_it_learns_in_each_period(
    tmp_path: Path, consistency: str
) -> None:
    recipe = recipe_of(mode="delta", consistency=consistency, staleness=0, train=TRAIN)
    result, weights = await train(recipe, tmp_path, shards=2, workers=1, device="auto")
    assert (result.status, result.examples, result.steps) == ("done", 2876, 46)
    plan = plan_of(recipe)
    rule = recipe.train.update_rule()
    engine = open_engine("auto")
    local = Local(kernel_rule(rule), 4)
    compute = ModelCompute(engine, plan.model, plan.dataset, seed=1, largest=16, local=local)
    alone, out = compute.initial_weights(1), np.empty(plan.model.size, np.float32)
    for update in range(46):
        epoch, clock = divmod(update, 23)
        stops = range(clock * 64, min(clock * 64 + 64, 1438), 16)
        pieces = [Span(at, min(at + 16, 1438)) for at in stops]
        compute.local(alone, epoch, pieces, rule.rate_at(update), out)
        alone = alone - out
    engine.close()
    np.testing.assert_array_equal(weights, alone)


async def test_workers_add_side_by_side(tmp_path: Path) -> None:
    recipe = recipe_of(mode="delta", consistency="asp", train={**TRAIN, "epochs": 4, "rate": 0.02})
    result, _ = await train(recipe, tmp_path, both=2)
    assert (result.status, result.examples) == ("done", 5752)
    assert result.pushes["applied"] == result.steps
    assert result.accuracy is not None
    assert result.accuracy > 0.8


async def test_local_training_that_diverged_is_named(tmp_path: Path) -> None:
    recipe = recipe_of(mode="average", train={"period": 3})
    result, _ = await train(
        recipe, tmp_path, both=1, wrap={"peer-0": lambda compute: Poisoned(compute, honest=True)}
    )
    assert result.status == "failed"
    assert "its local training on part 0 of clock 0 held NaN or infinity" in str(result.error)
