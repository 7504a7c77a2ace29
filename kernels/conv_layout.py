"""How a convolution's images lie in memory for its kernels, and where places and taps are in them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from kernels.device.device import OpenDevice
from kernels.errors import KernelError
from kernels.windows import Pair, Window


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


class Layout:
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


class Tables:
    """The layouts of the shapes seen so far, with their tables on the device; a few at a time."""

    MOST = 64

    def __init__(self, device: OpenDevice, group: int) -> None:
        self._device = device
        self._group = group
        self._known: dict[tuple[Any, ...], tuple[Layout, Any, Any]] = {}

    def of(self, layer: Layer) -> tuple[Layout, Any, Any]:
        """Return a layer's layout and its tables, taps and bases."""
        key = (layer.channels, layer.plane, layer.window)
        found = self._known.get(key)
        if found is None:
            if len(self._known) >= self.MOST:
                self._known.clear()
            layout = Layout(layer, self._group)
            found = (layout, self._put(layout.taps), self._put(layout.bases))
            self._known[key] = found
        return found

    def _put(self, table: np.ndarray) -> Any:
        if table.max(initial=0) >= 1 << 31:
            raise KernelError("an image of 2^31 elements or more is too large for a convolution")
        host = np.ascontiguousarray(table, np.int32)
        buffer = self._device.buffer(host.nbytes)
        with self._device.unrecorded():
            self._device.copy_in(buffer, 0, host)
            self._device.finish()
        return buffer


class Room:
    """A workspace that grows."""

    def __init__(self, device: OpenDevice) -> None:
        self._device = device
        self._buffer: Any = None
        self._bytes = 0

    def of(self, elements: int) -> Any:
        """Return a buffer of at least so many float32."""
        if elements * 4 > self._bytes:
            self._buffer = self._device.buffer(elements * 4)
            self._bytes = elements * 4
        return self._buffer
