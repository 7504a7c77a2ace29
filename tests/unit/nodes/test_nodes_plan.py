"""The plan of a network's buffers, and what a training step takes of a device's memory."""

import math

import numpy as np
import pytest

from kernels.device.discovery import devices
from kernels.engine import open_engine
from kernels.opencl import OpenCLEngine
from nodes.models import Model, ModelConfig
from nodes.models.plan import Needed, lay_out, of_layers
from nodes.recipe import load_recipe
from nodes.training.learner import Learner

CPU = [str(info.index) for info in devices() if info.type == "cpu"]


def test_what_is_needed_together_lies_apart(rng: np.random.Generator) -> None:
    for _ in range(200):
        firsts = rng.integers(0, 12, 20)
        buffers = [
            Needed(int(size), int(first), int(first + length))
            for size, first, length in zip(
                rng.integers(1, 300, 20), firsts, rng.integers(0, 6, 20), strict=True
            )
        ]
        offsets, total = lay_out(buffers)
        for i, one in enumerate(buffers):
            assert offsets[i] + one.size <= total
            for j, other in enumerate(buffers[:i]):
                together = one.first <= other.last and other.first <= one.last
                apart = offsets[i] >= offsets[j] + other.size or offsets[j] >= offsets[i] + one.size
                assert apart or not together


def test_gradients_take_the_room_of_outputs_that_have_served() -> None:
    sizes = [512, 512, 512, 16]
    _, total = lay_out(of_layers(sizes, training=True))
    assert total == 512 * 4 + 16  # of the way back's widest step: two outputs below, two gradients
    _, forward = lay_out(of_layers(sizes, training=False))
    assert forward == 1024


@pytest.mark.skipif(not CPU, reason="no OpenCL CPU device on this host")
@pytest.mark.parametrize("recipe", ["mnist", "lenet"])
@pytest.mark.parametrize("rows", [32, 128, 512])
def test_a_step_takes_little_more_than_weights_gradients_and_activations(
    recipe: str, rows: int, rng: np.random.Generator
) -> None:
    config: ModelConfig = load_recipe(recipe).config.model
    model = Model(config, (28, 28), 10)
    engine = open_engine(CPU[0])
    assert isinstance(engine, OpenCLEngine)
    learner = Learner(engine, model, rows)
    weights, gradient = model.initial_weights(1), np.empty(model.size, np.float32)
    x = rng.random((rows, model.inputs), np.float32)
    y = rng.integers(0, 10, rows).astype(np.int32)
    learner.gradient(weights, x, y, gradient)
    taken = engine.device.memory.taken
    learner.gradient(weights, x, y, gradient)
    assert engine.device.memory.taken == taken, "a step must allocate nothing"
    activations = rows * (model.inputs + sum(math.prod(la.outputs) for la in model.layers))
    # Weights and gradient lie in the host's own memory; a packed copy of the weights may be held.
    # What a convolution's work-items lay out for themselves grows with the cores, not with the rows.
    aside = (2 + engine.info.compute_units) << 20
    assert taken + 4 * 2 * model.size <= 1.3 * 4 * (3 * model.size + activations) + aside
    engine.close()
