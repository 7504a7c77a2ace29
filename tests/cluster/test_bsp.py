"""bsp depends on neither workers nor shards, nor on the order in which parts arrive."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tests.support.cluster import recipe_of, train, train_alone


@pytest.mark.parametrize("device", ["numpy", "auto"])
async def test_weights_are_the_same_bits_whoever_computes(tmp_path: Path, device: str) -> None:
    recipe = recipe_of(train__epochs=1)
    alone = hashlib.sha256(train_alone(recipe, 4, device).tobytes()).hexdigest()
    recipe = recipe_of(train__epochs=1, train__parts=4)
    seen = {"alone": alone}
    for workers in (1, 2, 4):
        for shards in (1, 3):
            result, weights = await train(
                recipe, tmp_path, shards=shards, workers=workers, device=device
            )
            assert result.status == "done"
            assert result.examples == 1438
            seen[f"{workers} workers, {shards} shards"] = hashlib.sha256(
                weights.tobytes()
            ).hexdigest()
    assert set(seen.values()) == {alone}, seen
