"""bsp depends on neither workers nor shards, nor on the order in which parts arrive."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from nodes.data import permutation
from tests.support.cluster import plan_of, recipe_of, train, train_alone

Doubles = npt.NDArray[np.float64]


async def test_weights_are_the_same_bits_whoever_computes(tmp_path: Path) -> None:
    # Not on the numpy device: its products are BLAS's, whose threads decide how they are summed.
    recipe = recipe_of(
        train__epochs=1, train__parts=4, train__weight_decay=0.001, train__clip_norm=0.5
    )
    alone = hashlib.sha256(train_alone(recipe, 4)).hexdigest()
    seen = {"alone": alone}
    for workers in (1, 2, 4):
        for shards in (1, 3):
            result, weights = await train(
                recipe, tmp_path, shards=shards, workers=workers, device="auto"
            )
            assert (result.status, result.examples, result.steps) == ("done", 1438, 23)
            assert result.pushes == {"applied": 92, "duplicate": 0, "refused": 0}
            seen[f"{workers} workers, {shards} shards"] = hashlib.sha256(weights).hexdigest()
    assert set(seen.values()) == {alone}, seen


@pytest.mark.parametrize("mode", ["delta", "average"])
async def test_local_training_is_the_same_bits_whoever_does_it(tmp_path: Path, mode: str) -> None:
    recipe = recipe_of(
        mode=mode,
        train={
            "epochs": 2,
            "batch_size": 32,
            "parts": 4,
            "period": 5,
            "rate": {"kind": "cosine", "start": 0.2, "steps": 18},
            "warmup": 3,
            "weight_decay": 0.001,
            "clip_value": 0.2,
            "clip_norm": 0.8,
        },
    )
    alone = hashlib.sha256(train_alone(recipe, 4)).hexdigest()
    seen = {"alone": alone}
    for workers, shards in ((1, 3), (3, 1)):
        result, weights = await train(
            recipe, tmp_path, shards=shards, workers=workers, device="auto"
        )
        assert (result.status, result.examples, result.steps) == ("done", 2876, 18)
        assert result.pushes == {"applied": 72, "duplicate": 0, "refused": 0}
        assert result.accuracy is not None
        assert result.accuracy > 0.7
        seen[f"{workers} workers, {shards} shards"] = hashlib.sha256(weights).hexdigest()
    assert set(seen.values()) == {alone}, seen


def whole_batch_steps(seed: int, batch: int, epochs: int, rate: float, mu: float) -> Doubles:
    """Train 64-16-10 on digits by whole minibatches in float64, written out on its own."""
    plan = plan_of(recipe_of(seed=seed))
    data = plan.dataset
    x = data.train_x.astype(np.float64) * data.scale
    w = plan.model.initial_weights(seed).astype(np.float64)
    velocity = np.zeros_like(w)
    cuts = np.cumsum([64 * 16, 16, 16 * 10])
    for epoch in range(epochs):
        order = permutation(seed, epoch, len(x))
        for start in range(0, len(x), batch):
            rows = order[start : start + batch]
            w1, b1, w2, b2 = np.split(w, cuts)
            hidden = np.maximum(x[rows] @ w1.reshape(64, 16) + b1, 0)
            logits = hidden @ w2.reshape(16, 10) + b2
            delta = np.exp(logits - logits.max(axis=1, keepdims=True))
            delta /= delta.sum(axis=1, keepdims=True)
            delta[np.arange(len(rows)), data.train_y[rows]] -= 1
            delta /= len(rows)
            inner = (delta @ w2.reshape(16, 10).T) * (hidden > 0)
            parts = [x[rows].T @ inner, inner.sum(axis=0), hidden.T @ delta, delta.sum(axis=0)]
            velocity = mu * velocity + np.concatenate([part.ravel() for part in parts])
            w = w - rate * velocity
    return w


@pytest.mark.parametrize("device", ["numpy", "auto"])
async def test_a_hundred_steps_are_those_of_the_whole_batch(tmp_path: Path, device: str) -> None:
    recipe = recipe_of(
        train={"epochs": 4, "batch_size": 58, "parts": 4, "rate": 0.05, "momentum": 0.5}
    )
    result, weights = await train(recipe, tmp_path, shards=2, workers=3, device=device)
    assert result.steps == 100
    exact = whole_batch_steps(1, 58, 4, 0.05, 0.5)
    assert np.abs(weights - exact).max() / np.abs(exact).max() < 1e-5


async def test_a_clock_may_have_fewer_examples_than_parts(tmp_path: Path) -> None:
    recipe = recipe_of(train={"epochs": 1, "batch_size": 1437, "parts": 3, "rate": 0.01})
    alone = train_alone(recipe, 3)
    for peers in (2, 1):
        result, weights = await train(recipe, tmp_path, both=peers, device="auto")
        assert (result.steps, result.examples) == (2, 1438)
        assert np.array_equal(weights, alone), f"{peers} peers"
