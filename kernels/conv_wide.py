"""Convolution on CPU devices with 32 registers of 16 floats (AVX-512): vectors over filters."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from kernels.conv_layout import Layer, Room
from kernels.device.device import Located, OpenDevice, define, source
from kernels.windows import Window

WIDTHS = {8: 12, 16: 12, 24: 12, 32: 12, 40: 8, 48: 8, 56: 6, 64: 6}
"""The rows of a tile for each of its widths: 24 sums in registers where the width has so many."""
CHUNK = 24
"""Weights that a work-item of the gradient by the weights takes at least."""
LEAST = 8
"""Channels, or on the way back filters, from which on these kernels are used."""
FILLED = 0.75
"""The share of its vectors' lanes that a layer fills at least."""
WASTE = 1.2
"""Places of x for each one of the output, at most, where the way back is like that forward."""
PART = 40 << 10
"""Elements of x that are laid out at a time, about: they stay in a core's second cache."""
BLOCK = 64
"""Places, about, of the output's gradient that stay in the first cache while all weights pass by."""
PIECES = 16
"""Parts of the minibatch whose sums are added up at last, as far as it has images."""
SUMS = 2 << 20
"""Elements of such sums, about, at most: large layers have fewer parts, but 4."""
ITEMS_A_UNIT = 8
"""Work-items for each compute unit, where there are so many: enough to share."""


class WideConvolution:
    """The kernels of conv_wide.cl; methods as those of `Convolution`, functions by their codes."""

    def __init__(self, device: OpenDevice) -> None:
        self._device = device
        self._packed, self._room, self._sums = Room(device), Room(device), Room(device)
        words = (np.int32,)
        at = (None, np.uint64)
        shared = (np.uint64, np.int32)
        types: dict[str, tuple[Any, ...]] = {
            "pack_weights": (*at, None, *words * 7, *shared),
            "pack_runs": (*at, None, None, np.int32, *shared),
            "convolve_wide": (None,) * 8,
            "input_wide": (None,) * 8,
            "weights_wide": (None,) * 6,
            "add_pieces": (None, *at * 2, *words * 5, *shared),
        }
        text = _source()
        with device.building([text]):
            program = device.build(text, {})
            self._kernels = {name: device.kernel(program, name, of) for name, of in types.items()}
            with device.unrecorded():
                self._warm()

    def _warm(self) -> None:
        """Run every kernel once: many devices compile at the first launch."""
        layer = Layer(1, 1, (1, 1), 1, Window((1, 1)))
        x, w, out = ((self._device.buffer(64), 0) for _ in range(3))
        self.forward(layer, x, w, out, None, 0)
        self._back(layer, x, w, out, None, 0)
        self.weights(layer, x, w, out, None)
        self._device.finish()

    def _items(self, name: str, items: int, *args: Any) -> None:
        """Run a kernel over items that are shared out evenly."""
        share = -(-items // (4 * self._device.info.compute_units))
        self._kernels[name]((-(-items // share),), (1,), *args, items, share)

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
        taps = layer.window.taps
        far = (layer.k, taps, 0)
        self._convolve(layer, x, w, far, out, bias=bias, activation=activation)

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
        if not slides(layer):
            self._back(layer, delta, w, out, y, derivative)
            return
        window = layer.window
        sides = zip(window.size, window.dilation, window.padding, strict=True)
        pad_y, pad_x = ((size - 1) * far - pad for size, far, pad in sides)
        back = Layer(
            layer.batch,
            layer.filters,
            layer.places,
            layer.channels,
            replace(window, padding=(pad_y, pad_x)),
        )
        far = (window.taps, layer.k, 1)
        self._convolve(back, delta, w, far, out, y=y, derivative=derivative)

    def _back(
        self,
        layer: Layer,
        delta: Located,
        w: Located,
        out: Located,
        y: Located | None,
        derivative: int,
    ) -> None:
        """Enqueue the gradient by the input, one row of the window after another."""
        window, (h, width), (oh, ow) = layer.window, layer.plane, layer.places
        panel = panel_of(layer.channels)
        groups = -(-layer.channels // panel)
        run = _taps_of_a_run(window) * min(panel, layer.channels)
        lanes, runs = panel_of(run), window.taps // _taps_of_a_run(window)
        shape = _shape(layer, min(panel, layer.channels))
        steps = groups * runs * layer.filters
        packed = self._packed.of(steps * _whole(run))
        self._items("pack_runs", steps, *w, packed, shape, lanes)
        own = _whole(layer.filters * oh * ow)
        padded = (h + 2 * window.padding[0]) * (width + 2 * window.padding[1])
        size = own + _whole(padded * min(panel, layer.channels))
        share = -(-layer.batch // (ITEMS_A_UNIT * self._device.info.compute_units))
        grid = (-(-layer.batch // share), groups)
        room = self._room.of(grid[0] * groups * size)
        given = np.zeros(16, np.int64)
        given[:6] = delta[1], out[1], 0, (y or out)[1], size, own
        given[7:12] = derivative, layer.batch, lanes, 0, share
        buffers = (delta[0], packed, out[0], (y or out)[0], room)
        by_place = Layer(layer.batch, layer.filters, (oh, ow), run, Window((1, 1)))
        self._kernels["input_wide"](grid, (1, 1), *buffers, given, shape, _shape(by_place, lanes))

    def _convolve(
        self,
        layer: Layer,
        x: Located,
        w: Located,
        far: tuple[int, int, int],
        out: Located,
        *,
        bias: Located | None = None,
        activation: int = 0,
        y: Located | None = None,
        derivative: int = 0,
    ) -> None:
        """Enqueue a convolution by weights that are `far` apart.

        That is neighbouring filters, and neighbouring channels; the last number says whether taps
        are turned round.
        """
        panel, taps = panel_of(layer.filters), layer.window.taps
        packed = self._packed.of(layer.k * _whole(layer.filters))
        numbers = (layer.filters, panel, layer.channels, taps, *far)
        self._items("pack_weights", layer.k, *w, packed, *numbers)
        rows, parts, size = parts_of(layer)
        units = layer.batch * parts
        share = -(-units // (ITEMS_A_UNIT * self._device.info.compute_units))
        items = -(-units // share)
        room = self._room.of(items * size)
        given = np.zeros(16, np.int64)
        located = (x, out, bias or out, y or out)
        given[:4] = [offset for _, offset in located]
        given[4:8] = size, bias is not None, activation, derivative
        given[8:12] = layer.batch, parts, rows, share
        buffers = (x[0], packed, out[0], (bias or out)[0], (y or out)[0], room)
        self._kernels["convolve_wide"]((items,), (1,), *buffers, given, _shape(layer, panel))

    def weights(
        self, layer: Layer, x: Located, delta: Located, out: Located, sums: Located | None
    ) -> None:
        """Enqueue the gradient by the weights."""
        panel = panel_of(layer.filters)
        filters, (oh, ow) = _whole(layer.filters), layer.places
        pieces = min(PIECES, max(4, SUMS // (layer.k * filters)))
        images = -(-layer.batch // pieces)
        pieces = -(-layer.batch // images)
        rows, parts, size = parts_of(layer)
        several = max(1, min(images, BLOCK // (oh * ow))) if parts == 1 else 1
        own, size = several * rows * ow * filters, several * size
        run = _taps_of_a_run(layer.window) * layer.channels
        chunks = layer.k // run * -(-run // CHUNK)
        units = self._device.info.compute_units
        share = -(-chunks // min(chunks, -(-2 * units // pieces)))
        splits = -(-chunks // share)
        room = self._room.of(pieces * splits * (size + own))
        partial = self._sums.of(pieces * (layer.k + 1) * filters)
        given = np.zeros(16, np.int64)
        given[:5] = x[1], delta[1], 0, own, size + own
        given[5:8] = images, sums is not None, max(1, BLOCK // ow)
        given[8:13] = layer.batch, parts, rows, share, several
        buffers = (x[0], delta[0], partial, room)
        grid = (splits, pieces)
        self._kernels["weights_wide"](grid, (1, 1), *buffers, given, _shape(layer, panel))
        shape = (pieces, layer.filters, layer.channels, layer.window.taps, panel)
        steps = layer.k + (sums is not None)
        self._items("add_pieces", steps, partial, *out, *(sums or out), *shape)


def suits(inner: int, lanes: int, row: int = 0) -> bool:
    """Say whether a convolution from `inner` to `lanes` planes is one for these kernels.

    A step's vectors are over the latter, by eights, and few inner planes make short loops. Other
    kernels' vectors are over places, eights of a row of so many: they may be filled better.
    """
    return inner >= LEAST and _filled(lanes) >= max(FILLED, _filled(row))


def _filled(count: int) -> float:
    """Return which share of its eights a count fills."""
    return count / (-(-count // 8) * 8) if count else 0.0


def slides(layer: Layer) -> bool:
    """Say whether the gradient by the input is worth a convolution like that forward.

    It computes every element of x from the whole window, also where that sees little of delta.
    """
    window, (h, w), (oh, ow) = layer.window, layer.plane, layer.places
    sides = zip(window.size, window.dilation, window.padding, strict=True)
    fits = all((size - 1) * far >= pad for size, far, pad in sides)
    return fits and window.stride == (1, 1) and h * w <= WASTE * oh * ow


def panel_of(filters: int) -> int:
    """Return how many filters a panel has: 64 at most, and none much fewer than the others."""
    sixteens = -(-filters // 16)
    panels = -(-sixteens // 4)
    return -(-sixteens // panels) * 16


def parts_of(layer: Layer) -> tuple[int, int, int]:
    """Return the output rows of an image's parts, how many parts, and the elements of one of x."""
    window, (_, w) = layer.window, layer.plane
    oh = layer.places[0]
    span = (window.size[0] - 1) * window.dilation[0] + 1
    row = (w + 2 * window.padding[1]) * layer.channels
    most = max(1, (PART // row - span) // window.stride[0] + 1)
    parts = -(-oh // most)
    rows = -(-oh // parts)
    return rows, -(-oh // rows), _whole(((rows - 1) * window.stride[0] + span) * row + 16)


def _taps_of_a_run(window: Window) -> int:
    """Return how many taps of a window lie side by side in a part's memory."""
    return window.size[1] if window.dilation[1] == 1 else 1


def _whole(count: int) -> int:
    return -(-count // 16) * 16


def _shape(layer: Layer, panel: int) -> np.ndarray:
    window = layer.window
    shape = np.zeros(16, np.int32)
    shape[:9] = layer.channels, *layer.plane, *window.padding, *window.stride, *window.dilation
    shape[9:15] = *window.size, layer.filters, *layer.places, panel
    return shape


def _source() -> str:
    """Return the program: its tiles for every width, then its kernels."""
    head = source("common.cl", "turn.cl", "conv_wide_head.cl")
    head += "#define PLACES_BY_(width) places_##width\n#define PLACES_BY(width) PLACES_BY_(width)\n"
    head += "#define WEIGHTS_BY_(width) weights_##width\n"
    head += "#define WEIGHTS_BY(width) WEIGHTS_BY_(width)\n"
    for width, rows in WIDTHS.items():
        each_row = " ".join(f"X({row})" for row in range(rows))
        head += define({"TILE_WIDTH": width, "TILE_ROWS": rows})
        head += f"#undef EACH_ROW\n#define EACH_ROW(X) {each_row}\n" + source("conv_wide_tile.cl")
    each = " ".join(f"X({width // 8}, {width})" for width in WIDTHS)
    return (
        head
        + f"#define EACH_WIDTH(X) {each}\n"
        + source("conv_wide.cl", "conv_wide_back.cl", "conv_wide_weights.cl")
    )
