"""The matrix product of the OpenCL engine: programs, panels and the cut into work-items.

On a CPU each work-item packs the panels of B that it needs, block by block, in the core's own cache:
a packed copy in memory would have to be written and read once more, and a training step uses a version
of the weights once in each form. So weights are not packed ahead, and a product needs no workspace.
"""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from pyopencl import cltypes

from kernels.activations import activation as find_activation
from kernels.cut import FORMS, HEIGHT, Choice, Cut, ShapeClass, Tile, best_cut, shape_class
from kernels.device.device import Located, OpenDevice, define, source
from kernels.device.kernel import Kernel
from kernels.interface import Form

DEPTH = 272
"""Rows of B that are packed at a time, at most: 17 KiB a narrow panel, in a core's first cache."""
AHEAD = 2
"""Tiles of each panel over which what is packed next is asked for: fewer ask too quickly for it."""
PRODUCTS = 50
"""Products that a core adds a nanosecond."""
SPAN = 64
"""Rows and columns of a work-group's tile on devices other than CPUs."""


WIDE = Tile(8, 48, group=288)
"""For 32 registers of 16 floats (AVX-512): the sums take 24 of them."""
NARROW = Tile(6, 16, group=128)
"""For 16 registers of 8 floats (AVX2): the sums take 12 of them."""

PREFETCHING = ("Portable Computing Language", "Intel(R) OpenCL")
"""Platforms whose compiler knows clang's builtin to prefetch; Oclgrind only compiles it."""

_NOTHING: tuple[Any, int] = (None, 0)


class Gemm:
    """Products in the three forms, cut by what was measured for their class or else by the model."""

    def __init__(self, device: OpenDevice) -> None:
        self.choices: Mapping[ShapeClass, Choice] = {}
        self._units = device.info.compute_units
        self._tiled = device.info.type == "cpu"
        self._tile = tile_of(device)
        self._products: dict[Form, Kernel] = {}
        sources = gemm_sources(device)
        # The peers of a host each begin with another form, and find the others' built meanwhile.
        first = os.getpid() % len(FORMS)
        for form in (*FORMS[first:], *FORMS[:first]):
            with device.building([sources[form]]):
                program = device.build(sources[form], {})
                self._products[form] = device.kernel(
                    program, "product", (*(None,) * 6, cltypes.long16)
                )
                self._warm(device, form)

    def _warm(self, device: OpenDevice, form: Form) -> None:
        """Run a product once: many devices compile at the first launch."""
        a, b, out = ((device.buffer(4), 0) for _ in range(3))
        for buffer, _ in (a, b):
            device.copy_in(buffer, 0, np.ones(1, np.float32))
        with device.on_each_queue() as rounds:
            for _ in rounds:
                self(a, b, out, form=form, m=1, n=1, k=1)

    def __call__(
        self,
        a: Located,
        b: Located,
        out: Located,
        *,
        form: Form,
        m: int,
        n: int,
        k: int,
        bias: Located | None = None,
        activation: str = "identity",
        derivative: str = "identity",
        y: Located | None = None,
        residual: Located | None = None,
        scale: float = 1.0,
        column_sums: Located | None = None,
    ) -> None:
        """Enqueue one product; arguments as in `Engine.matmul`, already checked."""
        others = (bias or column_sums or _NOTHING, y or _NOTHING, residual or _NOTHING)
        arrays = (a, b, out, *others)
        numbers = np.zeros(16, np.int64)
        offsets = [offset for _, offset in arrays]
        numbers[:5], numbers[14] = offsets[:5], offsets[5]
        given = (bias, residual, column_sums)
        numbers[5] = sum(1 << bit for bit, array in enumerate(given) if array is not None)
        numbers[15] = np.float32(scale).view(np.int32)
        numbers[6:8] = find_activation(activation).code, find_activation(derivative).code
        numbers[8:11] = m, n, k
        if self._tiled:
            choice = self.choices.get(shape_class(form, m, n, k)) if self.choices else None
            cut = self.cut_by(choice, form, m, n, k)
            numbers[11:14] = cut.columns, cut.rows, block_of(k)
            grid, group = cut.grid(m, n), (1, 1)
        else:
            grid, group = (-(-n // SPAN) * 16, -(-m // SPAN) * 16), (16, 16)
        work = m * n * k / PRODUCTS
        self._products[form](grid, group, *(buffer for buffer, _ in arrays), numbers, work=work)

    def cut_by(self, choice: Choice | None, form: Form, m: int, n: int, k: int) -> Cut:
        """Return how a product is cut by a choice, or by the model where there is none."""
        if choice:
            return choice.cut(m, n, self._units, self._tile)
        return best_cut(form, m, n, k, self._units, self._tile)


def tile_of(device: OpenDevice) -> Tile:
    """Choose the register tile that the device's registers hold."""
    return WIDE if device.wide else NARROW


def gemm_sources(device: OpenDevice) -> dict[Form, str]:
    """Return each form's program: register tiles on a CPU, else tiles in local memory."""
    tile = tile_of(device) if device.info.type == "cpu" else None
    prefetch = device.info.platform in PREFETCHING
    return {form: _source(form, tile, prefetch) for form in FORMS}


def _source(form: Form, tile: Tile | None, prefetch: bool) -> str:
    turned = {"A_TURNED": int(form == "tn"), "B_TURNED": int(form == "nt")}
    if tile is None:
        return define(turned) + source("common.cl", "gemm_head.cl", "gemm_local.cl")
    packed = form == "tn"
    head = {
        **turned,
        "A_PACKED": int(packed),
        "TILE_A": "" if packed else "__global",
        "TILE_OUT": "__global",
        "DEPTH": DEPTH,
        "HEIGHT": HEIGHT,
        "PANEL": tile.panel,
        "GROUP": tile.group,
        "PREFETCH": int(prefetch),
        "AHEAD": AHEAD,
    }
    tails = _tiles("tails_##lanes", 4, tile.panel)
    ahead = _tiles("ahead_##lanes", tile.rows, tile.panel, ahead=True)
    tiles = _tiles("tiles_##lanes", tile.rows, tile.panel)
    before = define(head) + source("common.cl", "gemm_ahead.cl")
    return before + tails + ahead + tiles + source("gemm_head.cl", "turn.cl", "gemm.cl")


def _tiles(name: str, rows: int, panel: int, *, ahead: bool = False) -> str:
    """Return the functions for tiles of so many rows, one for each width up to a panel's."""
    each_row = " ".join(f"X({row})" for row in range(rows))
    head = define({"TILE_ROWS": rows, "TILE_AHEAD": int(ahead)})
    head += f"#undef EACH_ROW\n#define EACH_ROW(X) {each_row}\n"
    head += f"#undef TILE_NAME\n#define TILE_NAME(lanes) {name}\n"
    widths = range(1, panel // 16 + 1)
    return head + "".join(define({"TILE_LANES": w}) + source("gemm_tile.cl") for w in widths)


def block_of(k: int) -> int:
    """Choose how many steps over K are packed at a time: DEPTH at most, in blocks of a size."""
    blocks = max(1, -(-k // DEPTH))
    return max(1, -(-k // (blocks * 16))) * 16
