"""How a matrix product is cut into work-items on CPU devices: by a model of what each costs.

Any cut gives the same sums, for each element's order over K is fixed.
"""

from dataclasses import dataclass
from functools import cache

from kernels.interface import Form

GROUPS = 8
"""Most panels of 16 columns in a group: their packed block of B lies in a core's second cache."""
HEIGHT = 96
"""Rows that pass by a group before the next ones do: of A, packed or not, a block of 100 KiB."""

PER_CYCLE = 16
"""Products that a core adds a cycle."""
PACKING = 0.3
"""Cycles for each element that is packed."""
STRIDE = 16
"""Cycles to begin with each row of B that is packed: it lies in another page than the one before."""
ITEM = 500
"""Cycles that an item costs beside."""
LATE = 15000
"""Cycles after the first that another thread begins: it has to be woken."""


@dataclass(frozen=True)
class Tile:
    """A register tile of ``rows`` and a full panel of ``panel`` columns (a multiple of 16)."""

    rows: int
    panel: int

    @property
    def group(self) -> int:
        """The most columns of a work-item, in whole panels."""
        return GROUPS * 16 // self.panel * self.panel


@dataclass(frozen=True)
class Cut:
    """The ``columns`` and ``rows`` of the product that one work-item computes."""

    columns: int
    rows: int

    def grid(self, m: int, n: int) -> tuple[int, int]:
        """Return how many work-items there are over N and over M."""
        return -(-n // self.columns), -(-m // self.rows)


def cuts(m: int, n: int, units: int, tile: Tile) -> list[Cut]:
    """Return the cuts of a product that make sense on so many compute units."""
    found = []
    least = -(-n // tile.group)
    for groups in range(least, max(least, min(8 * units, -(-n // 16))) + 1):
        columns = -(-n // groups)
        grain = tile.panel if columns > tile.panel else 16
        columns = -(-columns // grain) * grain
        most = max(1, min(8 * units, m // 16))
        heights = (-(-m // (chunks * tile.rows)) for chunks in range(1, most + 1))
        found += [Cut(columns, height * tile.rows) for height in heights]
    return list(dict.fromkeys(found))


def cycles(cut: Cut, form: Form, m: int, n: int, k: int, units: int) -> float:
    """Return about how long a product takes when it is cut so."""
    across, down = cut.grid(m, n)
    items = across * down
    width = min(cut.columns, -(-n // 16) * 16)
    height = min(cut.rows, m)
    packed = PACKING * (width + (height if form == "tn" else 0)) + STRIDE
    item = k * (width * height / PER_CYCLE + packed) + ITEM
    if items == 1 or units == 1:
        return items * item
    # Items are handed out as units ask: at the end, some units wait for a part of an item.
    shared = (items * item + (units - 1) * (LATE + item / 2)) / units
    return max(shared, -(-items // units) * item)


@cache
def best_cut(form: Form, m: int, n: int, k: int, units: int, tile: Tile) -> Cut:
    """Choose the cut that the model finds the quickest."""
    return min(cuts(m, n, units, tile), key=lambda cut: cycles(cut, form, m, n, k, units))
