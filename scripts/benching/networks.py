"""The networks that sides train, their first weights and their minibatches, the same for all."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nodes.models import Model
from nodes.models.config import LayerConfig, ModelConfig

Floats = npt.NDArray[np.float32]

LENET: tuple[dict[str, object], ...] = (
    {"type": "conv2d", "filters": 20, "kernel_size": 5, "activation": "identity"},
    {"type": "max_pool2d", "kernel_size": 2},
    {"type": "conv2d", "filters": 50, "kernel_size": 5, "activation": "identity"},
    {"type": "max_pool2d", "kernel_size": 2},
    {"units": 500},
    {},
)
"""LeNet 20/50 for images of 28 by 28 and 10 classes, as Deeplearning4j's example has it."""
MINIBATCHES = 8
RATE = 0.01
AGREE_AFTER = 3
"""After so many steps the sides' losses are compared."""


def model_of(network: str) -> Model:
    """Return a network by its name: LeNet, or widths with relu between its layers."""
    if network == "lenet":
        config = ModelConfig.model_validate({"layers": LENET})
        return Model(config, (28, 28), 10)
    inputs, *hidden, outputs = map(int, network.split("-"))
    layers = [*(LayerConfig(units=units, activation="relu") for units in hidden), LayerConfig()]
    return Model(ModelConfig(layers=tuple(layers), init="he"), (inputs,), outputs)


def has_images(model: Model) -> bool:
    """Say whether a network's inputs are images, whose layout a framework may choose."""
    return len(model.layers[0].inputs) > 1


def minibatches(model: Model, batch: int) -> list[tuple[Floats, npt.NDArray[np.int32]]]:
    """Return minibatches, the same on all sides: inputs in [0, 1) and labels."""
    source = np.random.default_rng(1)
    return [
        (
            source.random((batch, model.inputs), np.float32),
            source.integers(0, model.outputs, batch, np.int32),
        )
        for _ in range(MINIBATCHES)
    ]


def tensors_of(model: Model) -> list[Floats]:
    """Return the first weights of a model as arrays: weight [inputs, units], bias, and so on."""
    flat = model.initial_weights(1)
    return [
        flat[one.offset : one.offset + one.size].reshape(one.shape).copy() for one in model.layout
    ]
