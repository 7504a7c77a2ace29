"""The recipe's ``model`` section."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, Strict, model_serializer, model_validator

from kernels.windows import Pair, Window
from paramserver.config import Section, fault

ActivationName = Literal[
    "identity", "relu", "leaky_relu", "elu", "softplus", "tanh", "hardtanh", "sigmoid"
]
Loss = Literal["cross_entropy", "mean_squared"]
Init = Literal["glorot", "he"]
LayerType = Literal[
    "dense", "conv2d", "max_pool2d", "avg_pool2d", "global_max_pool2d", "global_avg_pool2d"
]

_WINDOW = {"kernel_size", "stride", "padding"}
FIELDS: dict[LayerType, set[str]] = {
    "dense": {"units", "activation"},
    "conv2d": {"filters", *_WINDOW, "dilation", "activation"},
    "max_pool2d": _WINDOW,
    "avg_pool2d": _WINDOW,
    "global_max_pool2d": set(),
    "global_avg_pool2d": set(),
}
"""What each type of layer is told."""
NEEDED: dict[LayerType, tuple[str, ...]] = {
    "conv2d": ("filters", "kernel_size"),
    "max_pool2d": ("kernel_size",),
    "avg_pool2d": ("kernel_size",),
}


def _pair(value: object) -> object:
    """Take one number for both directions."""
    if isinstance(value, int) and not isinstance(value, bool):
        return (value, value)
    if isinstance(value, list | tuple) and len(value) == 2:
        return tuple(value)
    raise ValueError(f"must be a whole number, or two (vertical, horizontal), not {value!r}")


_Side = Annotated[int, Field(gt=0, le=1 << 12)]
_Padding = Annotated[int, Field(ge=0, le=1 << 12)]
Sides = Annotated[tuple[_Side, _Side], BeforeValidator(_pair)]
Paddings = Annotated[tuple[_Padding, _Padding], BeforeValidator(_pair)]

InputShape = Annotated[tuple[_Side, ...], Strict(False), Field(min_length=1, max_length=3)]


class LayerConfig(Section):
    """One layer; ``type`` says which of the keys it takes.

    "dense" takes ``units``, which may be left out in the last layer: it has as many as the data has
    classes or targets. "conv2d" takes ``filters`` and ``kernel_size``, ``stride`` and ``dilation``
    (1 unless given) and ``padding`` (0). "max_pool2d" and "avg_pool2d" take ``kernel_size``,
    ``stride`` (as large as ``kernel_size`` unless given) and ``padding``; the "global" ones take each
    plane as a whole. Sizes are one number, or two (vertical, horizontal). ``activation`` is relu
    unless given, in the last layer identity; pooling has none.
    """

    type: LayerType = "dense"
    units: Annotated[int, Field(gt=0, le=1 << 20)] | None = None
    filters: Annotated[int, Field(gt=0, le=1 << 16)] | None = None
    kernel_size: Sides | None = None
    stride: Sides | None = None
    padding: Paddings | None = None
    dilation: Sides | None = None
    activation: ActivationName | None = None

    @model_validator(mode="after")
    def _check(self) -> LayerConfig:
        for key in type(self).model_fields:
            if key not in ("type", *FIELDS[self.type]) and getattr(self, key) is not None:
                takes = ", ".join(sorted(FIELDS[self.type])) or "no key but type"
                raise fault(key, f"is not for a layer of type {self.type}, which takes {takes}")
        for key in NEEDED.get(self.type, ()):
            if getattr(self, key) is None:
                raise fault(key, f"missing: a layer of type {self.type} needs it")
        if self.type in ("max_pool2d", "avg_pool2d"):
            assert self.kernel_size is not None
            for size, padding in zip(self.kernel_size, self.padding or (0, 0), strict=True):
                if 2 * padding > size:
                    raise fault("padding", f"must be at most half of kernel_size, not {padding}")
        return self

    @model_serializer
    def _dump(self) -> dict[str, Any]:
        """Leave out what its type does not take."""
        keys = [key for key in type(self).model_fields if key in FIELDS[self.type]]
        return {"type": self.type, **{key: getattr(self, key) for key in keys}}

    def window(self, plane: Pair) -> Window:
        """Return the window that slides over planes [H,W].

        Raises:
            KernelError: it does not fit.
        """
        if self.kernel_size is None:
            return Window(plane, plane)
        pooling = self.type != "conv2d"
        window = Window(
            self.kernel_size,
            self.stride or (self.kernel_size if pooling else (1, 1)),
            self.padding or (0, 0),
            self.dilation or (1, 1),
        )
        window.over(plane)
        return window


class ModelConfig(Section):
    """A network: a stack of layers, of which the last is dense.

    ``input_shape`` is how an example is seen by the first layer: [channels, height, width] for
    convolution and pooling, which must have as many numbers as the data has features. It is the
    data's own shape unless given. ``loss`` is cross_entropy (which applies softmax itself) in a
    classification and mean_squared in a regression, and need not be given. ``init`` draws weights
    uniformly with the variance of Glorot and Bengio (2010) or of He et al. (2015); biases are zero.
    """

    layers: Annotated[tuple[LayerConfig, ...], Strict(False), Field(min_length=1, max_length=256)]
    input_shape: InputShape | None = None
    loss: Loss | None = None
    init: Init = "glorot"

    @model_validator(mode="after")
    def _check(self) -> ModelConfig:
        last = len(self.layers) - 1
        for index, layer in enumerate(self.layers[:-1]):
            if layer.type == "dense" and layer.units is None:
                raise fault(
                    f"layers.{index}.units", "missing: only the last layer may leave it out"
                )
        if self.layers[last].type != "dense":
            raise fault(
                f"layers.{last}.type",
                f"is {self.layers[last].type}, but the last layer must be dense: add {{}}",
            )
        if self.layers[last].activation not in (None, "identity"):
            raise fault(
                f"layers.{last}.activation",
                "must be left out in the last layer: the loss takes plain numbers (cross_entropy "
                "applies softmax itself)",
            )
        return self
