"""A run that goes on from a checkpoint: the same bits in bsp, every example once in asp."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nodes.training.result import Result
from nodes.training.resume import read
from paramserver.checkpoint import FOLDER, Checkpoint, TableState, load
from paramserver.cutclient import CutClient
from paramserver.slices import Floats
from tests.support.cluster import cluster, plan_of, recipe_of, train


def digest(weights: Floats) -> str:
    return hashlib.sha256(weights).hexdigest()


async def go_on(
    recipe: Any, checkpoint: Checkpoint, output: Path, *, shards: int, workers: int
) -> tuple[Result, Floats]:
    """Resume a run from a checkpoint on a cluster of its own."""
    plan = plan_of(recipe)
    plan = replace(plan, run=checkpoint.spec.name, resume=read(checkpoint, plan, output))
    spec = plan.spec(workers=workers, min_workers=workers, min_shards=shards)
    async with cluster(shards=shards, workers=workers, device="auto") as running:
        return await running.train(plan, spec, output, lambda _: None)


async def some_checkpoints(recipe: Any, output: Path) -> tuple[Result, Floats, list[Checkpoint]]:
    """Train with a checkpoint as often as there can be; return all that were made."""
    result, weights = await train(recipe, output, shards=2, workers=2, device="auto")
    folders = sorted((output / FOLDER).iterdir())
    return result, weights, [load(folder) for folder in folders]


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"train__rule": "momentum"}, id="momentum"),
        pytest.param({"train__rule": "adam", "train__rate": 0.01}, id="adam"),
        pytest.param({"mode": "delta", "train__period": 3}, id="delta"),
        pytest.param({"mode": "average", "train__period": 3}, id="average"),
    ],
)
async def test_a_resumed_bsp_run_ends_with_the_same_bits(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    often = {"every": 0.001, "keep": 100}
    recipe = recipe_of(**changes, train__epochs=10, train__parts=2, checkpoint=often)
    whole, weights, made = await some_checkpoints(recipe, tmp_path / "1")
    midway = [one for one in made if 0 < one.clock < whole.steps]
    assert midway
    assert made[-1].clock == whole.steps
    for number, (one, shards, workers) in enumerate(
        [(midway[0], 1, 3), (midway[-1], 3, 1), (made[-1], 1, 1)]
    ):
        result, again = await go_on(
            recipe, one, tmp_path / f"again{number}", shards=shards, workers=workers
        )
        assert (result.status, result.steps, result.examples) == (
            "done",
            whole.steps,
            whole.examples,
        )
        assert result.pushes["applied"] == whole.pushes["applied"]
        assert result.loss == whole.loss
        assert result.test_loss == whole.test_loss
        assert digest(again) == digest(weights)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"consistency": "asp"}, id="asp"),
        pytest.param({"consistency": "ssp"}, id="ssp"),
        pytest.param(
            {"consistency": "asp", "mode": "delta", "train__period": 2, "train__batch_size": 32},
            id="asp-delta",
        ),
    ],
)
async def test_a_resumed_asp_run_counts_every_example_once(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    recipe = recipe_of(
        **changes,
        train__epochs=12,
        train__rate=0.02,
        checkpoint={"every": 0.001, "keep": 1000},
    )
    whole, _, made = await some_checkpoints(recipe, tmp_path / "1")
    assert whole.examples == 12 * 1438
    midway = [one for one in made if 0 < one.clock < whole.steps]
    assert midway
    for number, one in enumerate(
        {midway[0].clock: midway[0], midway[-1].clock: midway[-1]}.values()
    ):
        result, _ = await go_on(recipe, one, tmp_path / f"again{number}", shards=1, workers=3)
        assert (result.status, result.epochs) == ("done", 12)
        assert result.examples == whole.examples
        ahead = int(one.versions[:, 0].max()) - one.table["steps"]
        assert 0 <= ahead * 64 <= result.repeated_examples
        assert result.repeated_examples <= (ahead + 3) * 64


async def test_a_finished_run_goes_on_for_more_epochs(tmp_path: Path) -> None:
    short = recipe_of(train__epochs=1, train__parts=2)
    done, _, made = await some_checkpoints(short, tmp_path / "1")
    longer = recipe_of(train__epochs=2, train__parts=2)
    straight, expected = await train(longer, tmp_path / "2", shards=1, workers=1, device="auto")
    result, weights = await go_on(longer, made[-1], tmp_path / "3", shards=1, workers=2)
    assert result.epochs == 2
    assert result.steps == straight.steps == 2 * done.steps
    assert digest(weights) == digest(expected)


async def test_a_life_that_died_in_the_cluster_before_its_first_checkpoint_is_set_aside(
    tmp_path: Path,
) -> None:
    recipe = recipe_of(train__epochs=2, train__parts=2)
    whole, weights, made = await some_checkpoints(recipe, tmp_path / "1")
    longer = recipe_of(train__epochs=4, train__parts=2)
    _, expected = await train(longer, tmp_path / "2", shards=1, workers=1, device="auto")
    plan = plan_of(longer)
    resume = read(made[-1], plan, tmp_path / "3")
    plan = replace(plan, run=whole.run, resume=resume)
    spec = plan.spec(workers=2, min_workers=2, min_shards=1)
    async with cluster(shards=1, workers=2, device="auto") as running:
        dead = spec.model_copy(update={"driver": ("dead", 1)})
        host = running.host
        await host.coordinator.put_config(dead.name, dead.model_dump(mode="json"))
        assert await host.view.changes.until(lambda: host.view.map.run is not None, 5.0)
        client = CutClient(host.links, host.maps, dead.table_name, host.me, deadline=5.0)
        other = TableState.empty(dead.table.size, dead.table.rule.name)
        for array in other.arrays:
            array[:] = 0
        other.versions[:] = 0
        await client.restore(other)
        result, again = await running.train(plan, spec, tmp_path / "3", lambda _: None)
        assert (result.status, result.epochs) == ("done", 4)
    assert digest(again) == digest(expected)
    assert digest(again) != digest(weights)
    assert load(Path(str(result.checkpoint))).spec.attempt == dead.attempt + 1
