"""ssp and asp: how stale a worker may be, and what overlaps."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nodes.training.compute import Compute
from paramserver.wire.data import Pull
from tests.support.cluster import cluster, plan_of, recipe_of, train
from tests.support.computes import Poisoned, Wrapped

PATIENCE = 0.5
"""Seconds after which a slowed worker goes on: the others may have run out of work."""


class Steps:
    """How many gradients each worker has computed, to be waited for."""

    def __init__(self) -> None:
        self.done: dict[str, int] = {}
        self._changed = threading.Condition()

    def count(self, name: str) -> None:
        with self._changed:
            self.done[name] = self.done.get(name, 0) + 1
            self._changed.notify_all()

    def wait_for(self, name: str, number: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self.done.get(name, 0) >= number, PATIENCE)


def slowed(lead: int) -> dict[str, Callable[[Compute], Compute]]:
    """Let worker-1 finish a step only when worker-2 is ``lead`` steps ahead of it."""
    steps = Steps()

    def slow(inner: Compute) -> Compute:
        def before() -> None:
            steps.wait_for("worker-2", steps.done.get("worker-1", 0) + lead)

        return Wrapped(inner, before, lambda: steps.count("worker-1"))

    def fast(inner: Compute) -> Compute:
        return Wrapped(inner, lambda: None, lambda: steps.count("worker-2"))

    return {"worker-1": slow, "worker-2": fast}


@pytest.mark.parametrize("bound", [1, 3])
async def test_staleness_reaches_the_bound_of_ssp_and_never_passes_it(
    tmp_path: Path, bound: int
) -> None:
    recipe = recipe_of(consistency="ssp", staleness=bound, train__batch_size=16, train__epochs=1)
    result, _ = await train(recipe, tmp_path, shards=1, workers=2, wrap=slowed(bound + 1))
    assert result.status == "done"
    assert result.examples == 1438
    assert result.staleness["max"] == bound
    assert result.staleness["versions_mean"] > 0


async def test_staleness_passes_any_bound_in_asp(tmp_path: Path) -> None:
    recipe = recipe_of(consistency="asp", train__batch_size=16, train__epochs=1)
    result, _ = await train(recipe, tmp_path, shards=1, workers=2, wrap=slowed(10))
    assert result.status == "done"
    assert result.examples == 1438
    assert result.staleness["max"] > 4


@pytest.mark.parametrize("consistency", ["ssp", "asp"])
async def test_the_next_pull_leaves_before_this_minibatch_is_computed(
    tmp_path: Path, consistency: str
) -> None:
    recipe = recipe_of(consistency=consistency, train__batch_size=128, train__epochs=1)
    plan = plan_of(recipe)
    pulls = Steps()
    seen: list[bool] = []

    def watch(inner: Compute) -> Compute:
        def before() -> None:
            # Weights of this step were pulled; one more pull is the next step's.
            wanted = len(seen) + 2
            pulls.wait_for("pull", wanted)
            seen.append(pulls.done.get("pull", 0) >= wanted)

        return Wrapped(inner, before, lambda: None)

    async with cluster(shards=1, workers=1, wrap={"worker-1": watch}) as running:
        shard = running.peers[0]
        answer = shard._handlers[Pull]

        def counted(request: Any) -> Any:
            pulls.count("pull")
            return answer(request)

        shard._handlers[Pull] = counted
        spec = plan.spec(workers=1, min_workers=1, min_shards=1)
        result, _ = await running.train(plan, spec, tmp_path, lambda _: None)
    assert result.status == "done"
    assert len(seen) == 12
    assert all(seen)


@pytest.mark.parametrize("honest", [True, False])
@pytest.mark.parametrize("consistency", ["bsp", "ssp", "asp"])
async def test_a_nan_is_refused_its_worker_named_and_the_others_finish(
    tmp_path: Path, consistency: str, honest: bool
) -> None:
    recipe = recipe_of(consistency=consistency, train__epochs=1)
    states: list[dict[str, Any]] = []
    result, weights = await train(
        recipe,
        tmp_path,
        both=3,
        wrap={"peer-1": lambda inner: Poisoned(inner, honest)},
        progress=states.append,
    )
    assert result.status == "done"
    assert result.examples == 1438
    assert np.isfinite(weights).all()
    assert list(states[-1]["dropped"]) == ["peer-1"]
    assert "NaN or infinity" in states[-1]["dropped"]["peer-1"]
    assert result.pushes["refused"] == (0 if honest else 1)


async def test_a_run_where_everybody_sees_nan_fails_and_says_that_it_diverged(
    tmp_path: Path,
) -> None:
    recipe = recipe_of(train__epochs=1)
    wrap = {f"peer-{i}": lambda inner: Poisoned(inner, True) for i in range(2)}
    result, _ = await train(recipe, tmp_path, both=2, wrap=wrap)
    assert result.status == "failed"
    assert "training diverged" in str(result.error)
    assert "lower train.rate" in str(result.error)
