"""The recipe's ``model`` section."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, Strict, model_validator

from paramserver.config import Section, fault

ActivationName = Literal[
    "identity", "relu", "leaky_relu", "elu", "softplus", "tanh", "hardtanh", "sigmoid"
]
Loss = Literal["cross_entropy", "mean_squared"]
Init = Literal["glorot", "he"]


class LayerConfig(Section):
    """A dense layer.

    ``units`` may be left out in the last layer, which has as many as the data has classes or
    targets. ``activation`` is relu unless given, in the last layer identity.
    """

    units: Annotated[int, Field(gt=0, le=1 << 20)] | None = None
    activation: ActivationName | None = None


class ModelConfig(Section):
    """A network of dense layers.

    ``loss`` is cross_entropy (which applies softmax itself) in a classification and mean_squared in
    a regression, and need not be given. ``init`` draws weights uniformly with the variance of Glorot
    and Bengio (2010) or of He et al. (2015); biases are zero.
    """

    layers: Annotated[tuple[LayerConfig, ...], Strict(False), Field(min_length=1, max_length=256)]
    loss: Loss | None = None
    init: Init = "glorot"

    @model_validator(mode="after")
    def _check(self) -> ModelConfig:
        for index, layer in enumerate(self.layers[:-1]):
            if layer.units is None:
                raise fault(
                    f"layers.{index}.units", "missing: only the last layer may leave it out"
                )
        last = len(self.layers) - 1
        if self.layers[last].activation not in (None, "identity"):
            raise fault(
                f"layers.{last}.activation",
                "must be left out in the last layer: the loss takes plain numbers (cross_entropy "
                "applies softmax itself)",
            )
        return self
