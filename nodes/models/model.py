"""A model: dense layers over one flat vector of float32 parameters."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nodes.data import Dataset
from nodes.data.order import WEIGHTS, words
from nodes.errors import ModelError
from nodes.models.config import ActivationName, Loss, ModelConfig


@dataclass(frozen=True, slots=True)
class Tensor:
    """One parameter's place in the flat vector; ``offset`` counts elements."""

    name: str
    offset: int
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """How many elements it has."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Layer:
    """A dense layer: ``activation(x @ weight[inputs, units] + bias[units])``."""

    inputs: int
    units: int
    activation: ActivationName
    weight: Tensor
    bias: Tensor


class Model:
    """A model built for data of a known width.

    Parameters lie packed in one flat vector, layer by layer, weight [inputs, units] before bias
    [units], in the order and size of the cluster's table.

    Args:
        config: the recipe's ``model`` section; ``loss`` is cross_entropy where it says none.
        inputs: features of one example.
        outputs: classes or targets; the last layer has as many units.

    Raises:
        ModelError: the last layer's ``units`` say otherwise.
    """

    def __init__(self, config: ModelConfig, inputs: int, outputs: int) -> None:
        self.config = config
        self.loss: Loss = config.loss or "cross_entropy"
        self.inputs = inputs
        self.outputs = outputs
        last = len(config.layers) - 1
        wanted = config.layers[last].units
        if wanted not in (None, outputs):
            raise ModelError(
                f"model.layers.{last}.units: is {wanted}, but the data has {outputs} "
                f"{'classes' if self.loss == 'cross_entropy' else 'targets'}: leave it out, or "
                f"set it to {outputs}"
            )
        layers: list[Layer] = []
        offset, width = 0, inputs
        for index, layer in enumerate(config.layers):
            units = outputs if index == last else layer.units
            assert units is not None  # the configuration has seen to it
            weight = Tensor(f"layers.{index}.weight", offset, (width, units))
            bias = Tensor(f"layers.{index}.bias", offset + weight.size, (units,))
            default: ActivationName = "identity" if index == last else "relu"
            activation = layer.activation or default
            layers.append(Layer(width, units, activation, weight, bias))
            offset, width = bias.offset + bias.size, units
        self.layers = tuple(layers)
        self.size = offset

    def __repr__(self) -> str:
        widths = "-".join(str(width) for width in (self.inputs, *(la.units for la in self.layers)))
        return f"<Model {widths}: {self.size} parameters, {self.loss}>"

    @classmethod
    def for_dataset(cls, config: ModelConfig, dataset: Dataset) -> Model:
        """Build the model for a data set; raise ModelError where the loss is not for its task."""
        wanted: Loss = "cross_entropy" if dataset.task == "classification" else "mean_squared"
        if config.loss not in (None, wanted):
            raise ModelError(
                f'model.loss: is "{config.loss}", but a {dataset.task} needs "{wanted}": leave '
                "it out, or change data.task"
            )
        config = config.model_copy(update={"loss": wanted})
        return cls(config, dataset.features, dataset.outputs)

    @property
    def layout(self) -> tuple[Tensor, ...]:
        """Every parameter's place, in the order of the flat vector."""
        return tuple(tensor for layer in self.layers for tensor in (layer.weight, layer.bias))

    def initial_weights(self, seed: int) -> npt.NDArray[np.float32]:
        """Make the first weights on the host: float32 [size], by the seed and nothing else."""
        flat = np.zeros(self.size, np.float32)
        for index, layer in enumerate(self.layers):
            fans = layer.inputs + layer.units if self.config.init == "glorot" else layer.inputs
            bound = math.sqrt(6.0 / fans)
            bits = words(seed, WEIGHTS, index, layer.weight.size)
            # 24 bits and a half: symmetric around 0, exact in float32 before the one rounding.
            uniform = ((bits >> np.uint32(8)).astype(np.float64) + 0.5) * 2.0**-23 - 1.0
            start = layer.weight.offset
            flat[start : start + layer.weight.size] = uniform * bound
        return flat
