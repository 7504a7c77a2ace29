"""Convolution on CPU devices with 32 registers of 16 floats, from few planes or to few."""

from __future__ import annotations

import numpy as np

from kernels.conv_cpu import CpuConvolution
from kernels.conv_layout import Layer, Room
from kernels.device.device import Located, OpenDevice, source

PIECES = 16
"""Parts of the minibatch whose sums are added up at last, as far as it has images."""
CACHED = 96 << 10
"""Elements of the output's gradient, about, that stay in a core's second cache while all taps pass."""

_AT = (None, np.uint64)


class FewConvolution(CpuConvolution):
    """The kernels of conv_few.cl, and of conv.cl where that has none; methods as of `Convolution`."""

    def __init__(self, device: OpenDevice) -> None:
        self._sums = Room(device)
        super().__init__(device)

    def _build(self) -> None:
        super()._build()
        words = (np.int32,)
        program = self._device.build(source("common.cl", "conv_few.cl"), {})
        self._kernels |= {
            name: self._device.kernel(program, name, types)
            for name, types in (
                ("convolve_few", (*_AT * 4, None, None, *words * 8)),
                ("weights_few", (*_AT * 2, None, None, None, *words * 9)),
                ("add_few", (None, *_AT * 2, *words * 3, np.uint64, np.int32)),
            )
        }

    def forward(
        self,
        layer: Layer,
        x: Located,
        w: Located,
        out: Located,
        bias: Located | None,
        activation: int,
    ) -> None:
        """Enqueue the output."""
        layout, taps, bases = self._tables.of(layer)
        x = self._laid_out(layer, layout, x)
        blocks = -(-layout.groups // 8)
        chunks = max(1, min(blocks, -(-4 * self._device.info.compute_units // layer.batch)))
        share = -(-blocks // chunks)
        self._kernels["convolve_few"](
            (-(-blocks // share), layer.batch),
            (1, 1),
            *x,
            *w,
            *out,
            *(bias or out),
            taps,
            bases,
            int(bias is not None),
            activation,
            layer.channels * layout.plane,
            layer.filters,
            layer.k,
            *layer.places,
            share,
        )

    def weights(
        self, layer: Layer, x: Located, delta: Located, out: Located, sums: Located | None
    ) -> None:
        """Enqueue the gradient by the weights."""
        layout, taps, bases = self._tables.of(layer)
        x = self._laid_out(layer, layout, x)
        delta = self._in_groups(layer, layout, delta)
        images = -(-layer.batch // PIECES)
        pieces = -(-layer.batch // images)
        tiles = -(-layer.filters // 4) * -(-layer.k // 5)
        share = -(-tiles // min(tiles, -(-2 * self._device.info.compute_units // pieces)))
        partial = self._sums.of(pieces * layer.filters * (layer.k + 1))
        self._kernels["weights_few"](
            (-(-tiles // share), pieces),
            (1, 1),
            *x,
            *delta,
            partial,
            taps,
            bases,
            int(sums is not None),
            layer.channels * layout.plane,
            layer.filters,
            layer.k,
            layout.groups,
            layer.batch,
            images,
            max(1, CACHED // (layer.filters * layout.groups * 8)),
            share,
        )
        items = layer.filters * (layer.k + (sums is not None))
        numbers = (pieces, layer.filters, layer.k)
        self._items("add_few", items, pieces, partial, *out, *(sums or out), *numbers)
