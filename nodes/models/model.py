"""A model: a stack of layers over one flat vector of float32 parameters."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from kernels.errors import KernelError
from kernels.ops.pooling import Pooling
from nodes.data import Dataset
from nodes.data.order import WEIGHTS, words
from nodes.errors import ModelError
from nodes.models.config import ActivationName, LayerConfig, Loss, ModelConfig
from nodes.models.layers import Conv2d, Dense, Layer, Pool2d, Shape, Tensor

AT_ONCE = 1 << 25
"""Elements: 128 MiB in float32."""


class Model:
    """A model built for examples of a known shape.

    Parameters lie packed in one flat vector, layer by layer, weight before bias, in the order and
    size of the cluster's table: a dense layer's weight is [inputs, units], a convolution's
    [filters, channels, height, width].

    Args:
        config: the recipe's ``model`` section; ``loss`` is cross_entropy where it says none.
        shape: one example's shape in the data; ``config.input_shape`` goes before it.
        outputs: classes or targets; the last layer has as many units.

    Raises:
        ModelError: the layers do not fit the data, or each other.
    """

    def __init__(self, config: ModelConfig, shape: Shape, outputs: int) -> None:
        self.config = config
        self.loss: Loss = config.loss or "cross_entropy"
        self.shape = config.input_shape or shape
        self.inputs = math.prod(shape)
        self.outputs = outputs
        if math.prod(self.shape) != self.inputs:
            raise ModelError(
                f"model.input_shape: {list(self.shape)} are {math.prod(self.shape)} numbers, but an "
                f"example of the data has {self.inputs}"
            )
        last = len(config.layers) - 1
        wanted = config.layers[last].units
        if wanted not in (None, outputs):
            raise ModelError(
                f"model.layers.{last}.units: is {wanted}, but the data has {outputs} "
                f"{'classes' if self.loss == 'cross_entropy' else 'targets'}: leave it out, or "
                f"set it to {outputs}"
            )
        layers: list[Layer] = []
        self.size = 0
        shape = self.shape
        for index, layer in enumerate(config.layers):
            activation = layer.activation or ("identity" if index == last else "relu")
            layers.append(self._layer(index, layer, shape, activation))
            shape = layers[-1].outputs
        self.layers = tuple(layers)

    def __repr__(self) -> str:
        widths = "-".join(
            "x".join(map(str, shape))
            for shape in (self.layers[0].inputs, *(layer.outputs for layer in self.layers))
        )
        return f"<Model {widths}: {self.size} parameters, {self.loss}>"

    def _layer(
        self, index: int, config: LayerConfig, shape: Shape, activation: ActivationName
    ) -> Layer:
        if config.type == "dense":
            units = config.units or self.outputs
            tensors = self._tensors(index, (math.prod(shape), units), units)
            return Dense(shape, units, activation, tensors)
        channels, *plane = (1, *shape) if len(shape) == 2 else shape
        if len(plane) != 2:
            hint = " (the data's own)" if self.config.input_shape is None and not index else ""
            raise ModelError(
                f"model.layers.{index}: {config.type} takes [channels, height, width], but is given "
                f"{list(shape)}{hint}: "
                + ("put it before the dense layers" if index else "set model.input_shape")
            )
        try:
            window = config.window((plane[0], plane[1]))
        except KernelError as error:
            raise ModelError(f"model.layers.{index}: {error}") from None
        places = window.over((plane[0], plane[1]))
        if config.filters is not None:
            tensors = self._tensors(index, (config.filters, channels, *window.size), config.filters)
            outputs = (config.filters, *places)
            return Conv2d((channels, *plane), outputs, window, activation, tensors)
        kind: Pooling = "max" if "max" in config.type else "mean"
        return Pool2d(kind, (channels, *plane), (channels, *places), window)

    def _tensors(self, index: int, weight: Shape, units: int) -> tuple[Tensor, ...]:
        """Give a layer's weight and bias their places, next in the flat vector."""
        first = Tensor(f"layers.{index}.weight", self.size, weight)
        second = Tensor(f"layers.{index}.bias", self.size + first.size, (units,))
        self.size += first.size + second.size
        return first, second

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
        return cls(config, dataset.shape, dataset.outputs)

    def resolved(self) -> ModelConfig:
        """Return the configuration with nothing left to be chosen by the data."""
        layers = list(self.config.layers)
        for index, layer in enumerate(self.layers):
            update: dict[str, object] = {}
            if layer.tensors:
                update["activation"] = layer.activation
            if isinstance(layer, Dense):
                update["units"] = layer.units
            layers[index] = layers[index].model_copy(update=update)
        return self.config.model_copy(update={"layers": tuple(layers), "loss": self.loss})

    @property
    def layout(self) -> tuple[Tensor, ...]:
        """Every parameter's place, in the order of the flat vector."""
        return tuple(tensor for layer in self.layers for tensor in layer.tensors)

    def rows_at_once(self, most: int) -> int:
        """Return how many rows to compute at once where nobody says: ``most``, or fewer large ones.

        All their layers' outputs together are at most `AT_ONCE` elements, unless one row has more.
        """
        row = self.inputs + sum(math.prod(layer.outputs) for layer in self.layers)
        return max(1, min(most, AT_ONCE // row))

    def initial_weights(self, seed: int) -> npt.NDArray[np.float32]:
        """Make the first weights on the host: float32 [size], by the seed and nothing else."""
        flat = np.zeros(self.size, np.float32)
        for index, layer in enumerate(self.layers):
            if not layer.tensors:
                continue
            weight = layer.tensors[0]
            fan_in, fan_out = layer.fans
            fans = fan_in + fan_out if self.config.init == "glorot" else fan_in
            bound = math.sqrt(6.0 / fans)
            bits = words(seed, WEIGHTS, index, weight.size)
            # 24 bits and a half: symmetric around 0, exact in float32 before the one rounding.
            uniform = ((bits >> np.uint32(8)).astype(np.float64) + 0.5) * 2.0**-23 - 1.0
            flat[weight.offset : weight.offset + weight.size] = uniform * bound
        return flat
