"""The matrix product of the OpenCL engine: programs, panels and the cut into work-items."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from kernels.activations import activation as find_activation
from kernels.interface import Form
from kernels.program import Kernel, Located, OpenDevice, define, source

DEPTH = 256
"""Rows of B that are packed at a time: 48 KiB a wide panel, which stays in a core's cache."""
SPAN = 64
"""Rows and columns of a work-group's tile on devices other than CPUs."""


@dataclass(frozen=True)
class Tile:
    """A register tile of ``rows`` and a full panel of ``panel`` columns (a multiple of 16)."""

    rows: int
    panel: int


WIDE = Tile(8, 48)
"""For 32 registers of 16 floats (AVX-512): the sums take 24 of them."""
NARROW = Tile(6, 16)
"""For 16 registers of 8 floats (AVX2): the sums take 12 of them."""

_FORMS: tuple[Form, ...] = ("nn", "tn", "nt")
_ARRAYS = (None, np.uint64) * 5  # a, b, out, bias, y: a buffer and an offset each
_WORDS = (np.int32,) * 6  # has_bias, activation, derivative, m, n, k


class Gemm:
    """Products in the three forms. The workspace for packed panels grows and is then reused."""

    def __init__(self, device: OpenDevice) -> None:
        self._device = device
        self._tiled = device.info.type == "cpu"
        self._tile = tile_of(device)
        self._products: dict[Form, Kernel] = {}
        self._panels: Any = None
        self._panel_bytes = 0
        for form, text in gemm_sources(device).items():
            program = device.build(text, {})
            types = (*_ARRAYS, *_WORDS, *((np.int32,) * 2 if self._tiled else ()))
            self._products[form] = device.kernel(program, "product", types)
            if self._tiled and form == "tn":
                packing = (None, np.uint64, None, np.int32, np.int32)
                self._pack = device.kernel(program, "pack_rows", packing)

    def __call__(
        self,
        a: Located,
        b: Located,
        out: Located,
        bias: Located | None,
        y: Located | None,
        *,
        form: Form,
        activation: str,
        derivative: str,
        m: int,
        n: int,
        k: int,
    ) -> None:
        """Enqueue one product; arguments as in `Engine.matmul`, already checked."""
        product = self._products[form]
        arguments = (
            *out,
            *(bias or out),
            *(y or out),
            int(bias is not None),
            find_activation(activation).code,
            find_activation(derivative).code,
            m,
            n,
            k,
        )
        if not self._tiled:
            grid = (-(-n // SPAN) * 16, -(-m // SPAN) * 16)
            product(grid, (16, 16), *a, *b, *arguments)
            return
        if form == "tn":
            a = (self._packed(a, m, k), 0)
        panel = panel_width(n, self._device.info.compute_units, self._tile)
        panels = -(-n // panel)
        rows = chunk_rows(m, panels, self._device.info.compute_units, self._tile)
        product((panels, -(-m // rows)), (1, 1), *a, *b, *arguments, panel, rows)

    def _packed(self, a: Located, m: int, k: int) -> Any:
        rows = self._tile.rows
        needed = -(-m // rows) * rows * k * 4
        if needed > self._panel_bytes:
            self._panels = self._device.buffer(needed)
            self._panel_bytes = needed
        self._pack((-(-m // (8 * rows)),), (1,), *a, self._panels, m, k)
        return self._panels


def tile_of(device: OpenDevice) -> Tile:
    """Choose the register tile that the device's registers hold."""
    return WIDE if device.wide else NARROW


def gemm_sources(device: OpenDevice) -> dict[Form, str]:
    """Return each form's program: register tiles on a CPU, else tiles in local memory."""
    tile = tile_of(device) if device.info.type == "cpu" else None
    return {form: _source(form, tile) for form in _FORMS}


def _source(form: Form, tile: Tile | None) -> str:
    turned = {"A_TURNED": int(form == "tn"), "B_TURNED": int(form == "nt")}
    if tile is None:
        return define(turned) + source("common.cl", "gemm_local.cl")
    each_row = " ".join(f"X({row})" for row in range(tile.rows))
    head = define({**turned, "A_PACKED": int(form == "tn"), "TILE_ROWS": tile.rows, "DEPTH": DEPTH})
    head += define({"TILE_OUT": "__global"})
    head += f"#define EACH_ROW(X) {each_row}\n"
    tiles = "".join(define({"TILE_LANES": lanes}) + source("gemm_tile.cl") for lanes in (1, 2, 3))
    return head + source("common.cl") + tiles + source("gemm.cl")


def panel_width(n: int, units: int, tile: Tile) -> int:
    """Choose the columns of a panel: full ones, unless narrower ones waste less or share better.

    Any choice gives the same sums: each element's order over K is fixed.
    """
    padded = -(-n // 16) * 16
    if padded >= tile.panel * units:
        return tile.panel
    return min(tile.panel, max(16, -(-padded // (units * 16)) * 16))


def chunk_rows(m: int, panels: int, units: int, tile: Tile) -> int:
    """Choose the rows of one work-item: enough items to share, rows enough to pay for packing."""
    chunks = max(1, min(-(-4 * units // panels), m // 64))
    chunks = max(chunks, -(-m // 512))
    return -(-m // (chunks * tile.rows)) * tile.rows
