"""Convolution on GPUs: products through local memory, whose operands are gathered."""

from __future__ import annotations

from typing import Any

import numpy as np

from kernels.conv_layout import Layer, Layout, Room, Tables
from kernels.device.device import Located, OpenDevice, define, source
from kernels.device.kernel import Kernel

SPAN = 64
"""Rows and columns of a work-group's tile."""
PIECES = 64
"""Work-groups that the sum over a minibatch is shared out to, as far as it has images."""

_AT = (None, np.uint64)


class GpuConvolution:
    """The kernels of conv_local.cl; methods as those of `Convolution`, functions by their codes."""

    def __init__(self, device: OpenDevice) -> None:
        self._device = device
        self._tables = Tables(device, 1)
        self._x, self._pieces = Room(device), Room(device)
        types = (*_AT * 4, None, None, *(np.int32,) * 23)
        texts = [define({"PART": part}) + source("common.cl", "conv_local.cl") for part in range(3)]
        with device.building(texts):
            programs = [device.build(text, {}) for text in texts]
            self._parts = [device.kernel(program, "gathered", types) for program in programs]
            adding = (None, *_AT * 2, np.int32, np.int32, np.uint64, np.uint64)
            self._add = device.kernel(programs[2], "add_pieces", adding)
            unfolding = (*_AT, None, *(np.int32,) * 8, np.uint64, np.int32)
            text = source("common.cl", "unfold.cl")
            self._unfold = device.kernel(device.build(text, {}), "unfold", unfolding)

    def _laid_out(self, layer: Layer, layout: Layout, x: Located) -> Located:
        if not layout.unfolded:
            return x
        planes = layer.batch * layer.channels
        to = self._x.of(planes * layout.plane)
        self._unfold((planes,), None, *x, to, *layout.folding, planes, 1)
        return to, 0

    def _run(self, kernel: Kernel, layer: Layer, sums: tuple[int, int, int], *args: Any) -> None:
        m, n, total = sums
        *arrays, piece = args
        layout, _, _ = self._tables.of(layer)
        (oh, ow), window = layer.places, layer.window
        grid = (-(-n // SPAN) * 16, -(-m // SPAN) * 16, -(-total // piece))
        kernel(
            grid,
            (16, 16, 1),
            *arrays,
            piece,
            m,
            n,
            total,
            layer.batch,
            layer.channels,
            layer.filters,
            window.taps,
            oh * ow,
            layer.channels * layout.plane,
            *layer.plane,
            oh,
            ow,
            window.size[1],
            *window.stride,
            *window.padding,
            *window.dilation,
        )

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
        sums = (layer.filters, layer.batch * layout.groups, layer.k)
        arrays = (*w, *x, *out, *(bias or out), taps, bases, int(bias is not None), activation)
        self._run(self._parts[0], layer, sums, *arrays, layer.k)

    def input(
        self,
        layer: Layer,
        delta: Located,
        w: Located,
        out: Located,
        y: Located | None,
        derivative: int,
    ) -> None:
        """Enqueue the gradient by the input."""
        _, taps, bases = self._tables.of(layer)
        total = layer.filters * layer.window.taps
        sums = (layer.channels, layer.batch * layer.plane[0] * layer.plane[1], total)
        arrays = (*w, *delta, *out, *(y or out), taps, bases, 0, derivative)
        self._run(self._parts[1], layer, sums, *arrays, total)

    def weights(
        self, layer: Layer, x: Located, delta: Located, out: Located, sums: Located | None
    ) -> None:
        """Enqueue the gradient by the weights."""
        layout, taps, bases = self._tables.of(layer)
        x = self._laid_out(layer, layout, x)
        size = layer.filters * layer.k
        tiles = -(-layer.filters // SPAN) * -(-layer.k // SPAN)
        images = -(-layer.batch // max(1, min(layer.batch, PIECES // tiles)))
        count = -(-layer.batch // images)
        items = size if sums is None else size + layer.filters
        pieces = self._pieces.of(count * items)
        extents = (layer.filters, layer.k, layer.batch * layout.groups)
        arrays = (*delta, *x, pieces, 0, *out, taps, bases, int(sums is not None), 0)
        self._run(self._parts[2], layer, extents, *arrays, images * layout.groups)
        numbers = (count, layer.filters, size, items)
        self._add((items,), None, pieces, *out, *(sums or out), *numbers)
