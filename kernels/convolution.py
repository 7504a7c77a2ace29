"""Convolution on an OpenCL device.

Workspaces grow to what the largest layer needs, and are then reused.
"""

from __future__ import annotations

from kernels.activations import activation as find_activation
from kernels.conv_cpu import CpuConvolution
from kernels.conv_gpu import GpuConvolution
from kernels.conv_layout import Layer
from kernels.conv_wide import WideConvolution, suits
from kernels.device.device import Located, OpenDevice

__all__ = ["Convolution", "Layer"]


class Convolution:
    """The three products of a convolution, without a matrix of patches."""

    def __init__(self, device: OpenDevice) -> None:
        on_cpu = device.info.type == "cpu"
        self._kind = CpuConvolution(device) if on_cpu else GpuConvolution(device)
        self._wide = WideConvolution(device) if device.wide else None

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
        wide = self._wide if suits(layer.channels, layer.filters) else None
        kind = wide or self._kind
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
        wide = self._wide if suits(layer.filters, layer.channels) else None
        kind = wide or self._kind
        kind.input(layer, delta, w, out, y, find_activation(derivative).code)

    def weights(
        self, layer: Layer, x: Located, delta: Located, out: Located, sums: Located | None
    ) -> None:
        """Enqueue the gradient by the weights; arguments as in `Engine.convolve_weights`."""
        wide = self._wide if suits(layer.channels, layer.filters) else None
        kind = wide or self._kind
        kind.weights(layer, x, delta, out, sums)
