"""Local training on MNIST: its accuracy, and how rarely it pushes."""

import json
import statistics
from pathlib import Path

import pytest

from tests.support.process import run

COSINE = 'train.rate={kind="cosine", start=0.0003, steps=235}'
AGED = ["--set", COSINE, "--set", "train.warmup=20"]
"""Added differences that are a few updates old need a lower rate than a mean of all parts does."""


@pytest.mark.long
@pytest.mark.parametrize(
    ("mode", "consistency", "more"),
    [
        ("average", "bsp", []),
        ("delta", "bsp", []),
        ("delta", "ssp", AGED),
        ("delta", "asp", AGED),
    ],
)
def test_mnist_is_learnt_with_a_tenth_of_the_pushes(
    tmp_path: Path, data_dir: Path, mode: str, consistency: str, more: list[str]
) -> None:
    reached = []
    for seed in (0, 1, 2):
        told = [f"mode={mode}", "train.period=10", f"seed={seed}"]
        sets = [word for one in told for word in ("--set", one)]
        done = run(
            *("nodes", "train", "mnist", "--json", "--epochs", "5"),
            *("--consistency", consistency, *sets, *more),
            cwd=tmp_path,
            seconds=300,
            PARAMSERVER_DATA=str(data_dir),
        )
        assert done.returncode == 0, done.stderr
        result = json.loads(done.stdout)
        assert result["examples"] == 300_000
        # Gradients take 5 epochs of 469 steps, each of them as many bytes.
        assert result["steps"] <= 5 * 469 / 8
        reached.append(result["accuracy"])
    assert statistics.median(reached) >= 0.965, reached
