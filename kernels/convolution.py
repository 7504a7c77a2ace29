"""Convolution on an OpenCL device: how images are laid out, tables of places and taps, launches.

Workspaces grow to what the largest layer needs, and are then reused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from kernels.activations import activation as find_activation
from kernels.program import Kernel, Located, OpenDevice, building, define, source
from kernels.windows import Pair, Window

GROUP = 8
"""Neighbouring places that a CPU's kernels take at once."""
ROWS = 6
"""Filters or channels of a tile on CPUs."""
SPAN = 64
"""Rows and columns of a work-group's tile elsewhere."""
LANES_A_BLOCK = 1200
"""Places of images that a tile of the weights' gradient sums before its lanes are added up."""
CACHED = 4096
"""Elements of the output's gradient that stay in a core's cache while all taps pass by."""
PIECES = 64
"""Work-groups that a GPU shares the sum over a minibatch out to, as far as it has images."""

_AT = (None, np.uint64)


@dataclass(frozen=True, slots=True)
class Layer:
    """The shapes of one convolution."""

    batch: int
    channels: int
    plane: Pair
    filters: int
    window: Window

    @property
    def places(self) -> Pair:
        """Return the plane of its output."""
        return self.window.over(self.plane)

    @property
    def k(self) -> int:
        """Return how many weights a filter has."""
        return self.channels * self.window.taps


class Convolution:
    """The three products of a convolution, without a matrix of patches."""

    def __init__(self, device: OpenDevice) -> None:
        self._device = device
        self._kind = _Cpu(device) if device.info.type == "cpu" else _Gpu(device)

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
        self._kind.forward(layer, x, w, out, bias, find_activation(activation).code)

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
        self._kind.input(layer, delta, w, out, y, find_activation(derivative).code)

    def weights(self, layer: Layer, x: Located, delta: Located, out: Located) -> None:
        """Enqueue the gradient by the weights; arguments as in `Engine.convolve_weights`."""
        self._kind.weights(layer, x, delta, out)


class _Layout:
    """How an image of x lies in memory for the kernels, and where its groups and taps are."""

    def __init__(self, layer: Layer, group: int) -> None:
        (h, w), window = layer.plane, layer.window
        oh, ow = layer.places
        (pad_y, pad_x), (stride_y, stride_x) = window.padding, window.stride
        (far_y, far_x), (window_y, window_x) = window.dilation, window.size
        self.across = -(-ow // group)
        self.groups = oh * self.across
        width = self.across * group
        self.unfolded = bool(pad_y or pad_x or (group > 1 and (stride_x > 1 or width != ow)))
        self.phases = stride_x if self.unfolded and group > 1 else 1
        self.height, self.run = h, w
        if self.unfolded:
            self.height = h + 2 * pad_y
            reach = width + (window_x - 1) * far_x // self.phases
            self.run = max(reach if group > 1 else 0, -(-(w + 2 * pad_x) // self.phases))
        self.row = self.run * self.phases
        self.plane = self.height * self.row
        step = 1 if group > 1 else stride_x
        lines = np.arange(oh)[:, None] * stride_y * self.row
        self.bases = (lines + np.arange(self.across) * group * step).reshape(-1)
        columns = np.arange(window_x) * far_x
        in_row = columns % self.phases * self.run + columns // self.phases
        in_plane = np.arange(window_y)[:, None] * far_y * self.row + in_row
        planes = np.arange(layer.channels)[:, None, None] * self.plane
        self.taps = (planes + in_plane).reshape(-1)
        self.folding = (h, w, self.height, self.row, self.run, self.phases, pad_y, pad_x)


class _Tables:
    """The layouts of the shapes seen so far, with their tables on the device; a few at a time."""

    MOST = 64

    def __init__(self, device: OpenDevice, group: int) -> None:
        self._device = device
        self._group = group
        self._known: dict[tuple[Any, ...], tuple[_Layout, Any, Any]] = {}

    def of(self, layer: Layer) -> tuple[_Layout, Any, Any]:
        """Return a layer's layout and its tables, taps and bases."""
        key = (layer.channels, layer.plane, layer.window)
        found = self._known.get(key)
        if found is None:
            if len(self._known) >= self.MOST:
                self._known.clear()
            layout = _Layout(layer, self._group)
            found = (layout, self._put(layout.taps), self._put(layout.bases))
            self._known[key] = found
        return found

    def _put(self, table: np.ndarray) -> Any:
        host = np.ascontiguousarray(table, np.int32)
        buffer = self._device.buffer(host.nbytes)
        with self._device.unrecorded():
            self._device.copy_in(buffer, 0, host)
            self._device.finish()
        return buffer


class _Room:
    """A workspace that grows."""

    def __init__(self, device: OpenDevice) -> None:
        self._device = device
        self._buffer: Any = None
        self._bytes = 0

    def of(self, elements: int) -> Any:
        """Return a buffer of at least so many float32."""
        if elements * 4 > self._bytes:
            self._bytes = elements * 4
            self._buffer = self._device.buffer(self._bytes)
        return self._buffer


class _Cpu:
    """Tiles in registers, over images that are laid out where they need it."""

    def __init__(self, device: OpenDevice) -> None:
        self._device = device
        self._tables = _Tables(device, GROUP)
        self._x, self._delta, self._turned = _Room(device), _Room(device), _Room(device)
        words = (np.int32,)
        shared = (np.uint64, np.int32)
        types: dict[str, tuple[Any, ...]] = {
            "unfold": (*_AT, None, *words * 8, *shared),
            "fold": (None, *_AT * 2, *words * 9, *shared),
            "turn_weights": (*_AT, None, *words * 2, *shared),
            "convolve": (*_AT * 4, None, None, *words * 8),
            "convolve_input": (*_AT, None, *_AT * 2, None, None, *words * 8),
            "convolve_weights": (*_AT * 3, None, None, *words * 7),
        }
        text = source("common.cl", "unfold.cl", "conv.cl")
        with building(device.info, [text]):
            program = device.build(text, {})
            self._kernels = {name: device.kernel(program, name, of) for name, of in types.items()}
            with device.unrecorded():
                self._warm()

    def _warm(self) -> None:
        """Run every kernel once: many devices compile at the first launch."""
        layer = Layer(1, 1, (1, 1), 1, Window((1, 1)))
        x, w, out = ((self._device.buffer(64), 0) for _ in range(3))
        self.forward(layer, x, w, out, None, 0)
        self.input(layer, x, w, out, out, 1)
        self.weights(layer, x, w, out)
        self._device.finish()

    def _items(self, name: str, items: int, work: int, *args: Any) -> None:
        """Run a kernel over items that cost about `work` each."""
        units = self._device.info.compute_units
        share = max(1, 4096 // max(1, work), -(-items // (4 * units)))
        self._kernels[name]((-(-items // share),), (1,), *args, items, share)

    def _laid_out(self, layer: Layer, layout: _Layout, x: Located) -> Located:
        if not layout.unfolded:
            return x
        planes = layer.batch * layer.channels
        to = self._x.of(planes * layout.plane)
        self._items("unfold", planes, layout.plane, *x, to, *layout.folding)
        return to, 0

    def _in_groups(self, layer: Layer, layout: _Layout, delta: Located) -> Located:
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

    def weights(self, layer: Layer, x: Located, delta: Located, out: Located) -> None:
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
            taps,
            bases,
            layer.channels * layout.plane,
            layer.filters,
            layer.k,
            layout.groups,
            layer.batch,
            max(1, LANES_A_BLOCK // (layout.groups * GROUP)),
            share,
        )


class _Gpu:
    """Products through local memory, whose operands are gathered."""

    def __init__(self, device: OpenDevice) -> None:
        self._device = device
        self._tables = _Tables(device, 1)
        self._x, self._pieces = _Room(device), _Room(device)
        types = (*_AT * 4, None, None, *(np.int32,) * 23)
        texts = [define({"PART": part}) + source("common.cl", "conv_local.cl") for part in range(3)]
        with building(device.info, texts):
            programs = [device.build(text, {}) for text in texts]
            self._parts = [device.kernel(program, "gathered", types) for program in programs]
            adding = (None, *_AT, np.int32, np.uint64)
            self._add = device.kernel(programs[2], "add_pieces", adding)
            unfolding = (*_AT, None, *(np.int32,) * 8, np.uint64, np.int32)
            text = source("common.cl", "unfold.cl")
            self._unfold = device.kernel(device.build(text, {}), "unfold", unfolding)

    def _laid_out(self, layer: Layer, layout: _Layout, x: Located) -> Located:
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
        _, taps, bases = self._tables.of(layer)
        total = layer.filters * layer.window.taps
        sums = (layer.channels, layer.batch * layer.plane[0] * layer.plane[1], total)
        arrays = (*w, *delta, *out, *(y or out), taps, bases, 0, derivative)
        self._run(self._parts[1], layer, sums, *arrays, total)

    def weights(self, layer: Layer, x: Located, delta: Located, out: Located) -> None:
        layout, taps, bases = self._tables.of(layer)
        x = self._laid_out(layer, layout, x)
        size = layer.filters * layer.k
        tiles = -(-layer.filters // SPAN) * -(-layer.k // SPAN)
        images = -(-layer.batch // max(1, min(layer.batch, PIECES // tiles)))
        count = -(-layer.batch // images)
        pieces = self._pieces.of(count * size)
        sums = (layer.filters, layer.k, layer.batch * layout.groups)
        arrays = (*delta, *x, pieces, 0, *out, taps, bases, 0, 0)
        self._run(self._parts[2], layer, sums, *arrays, images * layout.groups)
        self._add((size,), None, pieces, *out, count, size)
