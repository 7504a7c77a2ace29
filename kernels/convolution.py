"""Convolution on an OpenCL device.

Workspaces grow to what the largest layer needs, and are then reused.
"""

from __future__ import annotations

from functools import cached_property

from kernels.activations import activation as find_activation
from kernels.conv_cpu import CpuConvolution
from kernels.conv_few import FewConvolution
from kernels.conv_gpu import GpuConvolution
from kernels.conv_layout import Layer
from kernels.conv_wide import WideConvolution, suits
from kernels.device.device import Located, OpenDevice

__all__ = ["Convolution", "Layer"]


class Convolution:
    """The three products of a convolution, without a matrix of patches.

    A device's kernels are built when the first layer is one for them.
    """

    def __init__(self, device: OpenDevice) -> None:
        self._device = device

    @cached_property
    def _usual(self) -> CpuConvolution | GpuConvolution:
        if self._device.info.type != "cpu":
            return GpuConvolution(self._device)
        return (FewConvolution if self._device.wide else CpuConvolution)(self._device)

    @cached_property
    def _wide(self) -> WideConvolution:
        return WideConvolution(self._device)

    def _kind(
        self, inner: int, lanes: int, row: int = 0
    ) -> CpuConvolution | GpuConvolution | WideConvolution:
        """Return the kernels for a convolution from `inner` to `lanes` planes, with rows of `row`."""
        return self._wide if self._device.wide and suits(inner, lanes, row) else self._usual

    def forward(
        self,
        layer: Layer,
        x: Located,
        w: Located,
        out: Located,
        bias: Located | None,
        activation: str,
    ) -> None:
        """Enqueue the output; arguments as in `Engine.convolve`, already checked."""
        kind = self._kind(layer.channels, layer.filters, layer.places[1])
        kind.forward(layer, x, w, out, bias, find_activation(activation).code)

    def input(
        self,
        layer: Layer,
        delta: Located,
        w: Located,
        out: Located,
        y: Located | None,
        derivative: str,
    ) -> None:
        """Enqueue the gradient by the input; arguments as in `Engine.convolve_input`."""
        kind = self._kind(layer.filters, layer.channels)
        kind.input(layer, delta, w, out, y, find_activation(derivative).code)

    def weights(
        self, layer: Layer, x: Located, delta: Located, out: Located, sums: Located | None
    ) -> None:
        """Enqueue the gradient by the weights; arguments as in `Engine.convolve_weights`."""
        kind = self._kind(layer.channels, layer.filters)
        kind.weights(layer, x, delta, out, sums)
