"""Convolution on a CPU device: tiles in registers, over images that are laid out where they need it."""

from __future__ import annotations

from typing import Any

import numpy as np

from kernels.conv_layout import Layer, Layout, Room, Tables
from kernels.device.device import Located, OpenDevice, source
from kernels.windows import Window

GROUP = 8
"""Neighbouring places that the kernels take at once."""
ROWS = 6
"""Filters or channels of a tile."""
LANES_A_BLOCK = 1200
"""Places of images that a tile of the weights' gradient sums before its lanes are added up."""
CACHED = 4096
"""Elements of the output's gradient that stay in a core's cache while all taps pass by."""

_AT = (None, np.uint64)


class CpuConvolution:
    """The kernels of conv.cl; methods as those of `Convolution`, functions by their codes."""

    def __init__(self, device: OpenDevice) -> None:
        self._device = device
        self._tables = Tables(device, GROUP)
        self._x, self._delta, self._turned = Room(device), Room(device), Room(device)
        with device.building([source("common.cl", "unfold.cl", "conv.cl")]):
            self._build()
            with device.unrecorded():
                self._warm()

    def _build(self) -> None:
        words = (np.int32,)
        shared = (np.uint64, np.int32)
        types: dict[str, tuple[Any, ...]] = {
            "unfold": (*_AT, None, *words * 8, *shared),
            "fold": (None, *_AT * 2, *words * 9, *shared),
            "turn_weights": (*_AT, None, *words * 2, *shared),
            "convolve": (*_AT * 4, None, None, *words * 8),
            "convolve_input": (*_AT, None, *_AT * 2, None, None, *words * 8),
            "convolve_weights": (*_AT * 4, None, None, *words * 8),
        }
        program = self._device.build(source("common.cl", "unfold.cl", "conv.cl"), {})
        self._kernels = {name: self._device.kernel(program, name, of) for name, of in types.items()}

    def _warm(self) -> None:
        """Run every kernel once: many devices compile at the first launch."""
        layer = Layer(1, 1, (1, 1), 1, Window((1, 1)))
        x, w, out = ((self._device.buffer(64), 0) for _ in range(3))
        self.forward(layer, x, w, out, None, 0)
        self.input(layer, x, w, out, out, 1)
        self.weights(layer, x, w, out, None)
        self._device.finish()

    def _items(self, name: str, items: int, work: int, *args: Any) -> None:
        """Run a kernel over items that cost about `work` each."""
        units = self._device.info.compute_units
        share = max(1, 4096 // max(1, work), -(-items // (4 * units)))
        self._kernels[name]((-(-items // share),), (1,), *args, items, share)

    def _laid_out(self, layer: Layer, layout: Layout, x: Located) -> Located:
        if not layout.unfolded:
            return x
        planes = layer.batch * layer.channels
        to = self._x.of(planes * layout.plane)
        self._items("unfold", planes, layout.plane, *x, to, *layout.folding)
        return to, 0

    def _in_groups(self, layer: Layer, layout: Layout, delta: Located) -> Located:
        """Return the output's gradient with rows of whole groups, zero past their end."""
        oh, ow = layer.places
        width = layout.across * GROUP
        if width == ow:
            return delta
        planes = layer.batch * layer.filters
        to = self._delta.of(planes * oh * width)
        self._items("unfold", planes, oh * width, *delta, to, oh, ow, oh, width, width, 1, 0, 0)
        return to, 0

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
        pairs = -(-layout.groups // 2)
        chunks = max(1, min(pairs, -(-4 * self._device.info.compute_units // layer.batch)))
        share = -(-pairs // chunks)
        self._kernels["convolve"](
            (-(-pairs // share), layer.batch),
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
        layout, taps, bases = self._tables.of(layer)
        delta = self._in_groups(layer, layout, delta)
        turned = self._turned.of(layer.k * layer.filters)
        self._items("turn_weights", layer.k, layer.filters, *w, turned, layer.filters, layer.k)
        planes = layer.batch * layer.channels
        to = (self._x.of(planes * layout.plane), 0) if layout.unfolded else out
        self._kernels["convolve_input"](
            (-(-layer.channels // ROWS), layer.batch),
            (1, 1),
            *delta,
            turned,
            *to,
            *(y or out),
            taps,
            bases,
            0 if layout.unfolded else derivative,
            layer.channels,
            layout.plane,
            layer.filters,
            layer.window.taps,
            *layer.places,
            max(1, CACHED // (2 * GROUP * layer.filters)),
        )
        if layout.unfolded:
            work = layer.plane[0] * layer.plane[1]
            folding = (*layout.folding, derivative)
            self._items("fold", planes, work, to[0], *out, *(y or out), *folding)

    def weights(
        self, layer: Layer, x: Located, delta: Located, out: Located, sums: Located | None
    ) -> None:
        """Enqueue the gradient by the weights."""
        layout, taps, bases = self._tables.of(layer)
        x = self._laid_out(layer, layout, x)
        delta = self._in_groups(layer, layout, delta)
        filters, quads = -(-layer.filters // 3), -(-layer.k // 4)
        units = self._device.info.compute_units
        chunks = max(1, min(quads, -(-8 * units // filters)))
        share = -(-quads // chunks)
        self._kernels["convolve_weights"](
            (filters, -(-quads // share)),
            (1, 1),
            *x,
            *delta,
            *out,
            *(sums or out),
            taps,
            bases,
            int(sums is not None),
            layer.channels * layout.plane,
            layer.filters,
            layer.k,
            layout.groups,
            layer.batch,
            max(1, LANES_A_BLOCK // (layout.groups * GROUP)),
            share,
        )
