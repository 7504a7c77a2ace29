"""How a matrix product is cut into work-items on CPU devices: by a model of what each costs.

Any cut gives the same sums, for each element's order over K is fixed.
"""

from dataclasses import dataclass
from functools import lru_cache

from kernels.interface import Form

FORMS: tuple[Form, ...] = ("nn", "tn", "nt")

HEIGHT = 72
"""Rows that pass by a group before the next ones do: of A, packed or not, a block of 76 KiB."""

PER_CYCLE = 16
"""Products that a core adds a cycle."""
PACKING = 0.3
"""Cycles for each element of B that is packed."""
TURNING = 2.0
"""Cycles for each element of A that is packed: few lie side by side, so the core waits for them."""
STRIDE = 16
"""Cycles to begin with each row of B that is packed: it lies in another page than the one before."""
READING = 0.2
"""Cycles for each element of A that is read for a panel: wide panels are better where there are."""
ITEM = 500
"""Cycles that an item costs beside."""
LATE = 15000
"""Cycles after the first that another thread begins: it has to be woken."""


@dataclass(frozen=True)
class Tile:
    """A register tile of ``rows`` and a full panel of ``panel`` columns (a multiple of 16)."""

    rows: int
    panel: int
    group: int
    """The most columns of a work-item, in whole panels: their packed block of B lies in a core's second
    cache."""


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
        most = max(1, min(-(-8 * units // groups), m // 16))
        heights = (-(-m // (chunks * tile.rows)) for chunks in range(1, most + 1))
        found += [Cut(columns, height * tile.rows) for height in heights]
    return list(dict.fromkeys(found))


def cycles(cut: Cut, form: Form, m: int, n: int, k: int, units: int, tile: Tile) -> float:
    """Return about how long a product takes when it is cut so."""
    across, down = cut.grid(m, n)
    items = across * down
    width = min(cut.columns, -(-n // 16) * 16)
    height = min(cut.rows, m)
    packed = PACKING * width + (TURNING * height if form == "tn" else 0) + STRIDE
    read = READING * height * -(-width // tile.panel)
    item = k * (width * height / PER_CYCLE + packed + read) + ITEM
    if items == 1 or units == 1:
        return items * item
    # Items are handed out as units ask: at the end, all the others wait for the last.
    shared = (items * item + (units - 1) * (LATE + item)) / units
    return max(shared, -(-items // units) * item)


@dataclass(frozen=True)
class Choice:
    """How a class of products is cut where that was measured, instead of by the model.

    Items have ``columns`` columns at most, and there are about ``items`` of them for each unit.
    """

    columns: int
    items: int

    def cut(self, m: int, n: int, units: int, tile: Tile) -> Cut:
        """Return the cut of a product; any whole numbers make one that the kernels can do."""
        columns = max(16, min(self.columns, tile.group, -(-n // 16) * 16)) // 16 * 16
        if columns > tile.panel:
            columns = columns // tile.panel * tile.panel
        wanted = max(1, self.items) * units
        chunks = max(1, min(wanted // -(-n // columns), m // 16))
        return Cut(columns, -(-m // (chunks * tile.rows)) * tile.rows)


ROWS, COLUMNS, DEPTHS = (32, 128, 512), (64, 512, 2048), (64, 512)
"""M, N and K of the products that stand for their classes."""


@dataclass(frozen=True)
class ShapeClass:
    """Products of about the same shape, and the one (M, N, K) that stands for them."""

    form: Form
    m: int
    n: int
    k: int

    def __str__(self) -> str:
        return f"{self.form}/{self.m}x{self.n}x{self.k}"


def shape_class(form: Form, m: int, n: int, k: int) -> ShapeClass:
    """Return the class of a product: by the nearest of the standing extents, as ratios."""

    def nearest(extent: int, among: tuple[int, ...]) -> int:
        return min(among, key=lambda other: max(extent, other) / max(1, min(extent, other)))

    return ShapeClass(form, nearest(m, ROWS), nearest(n, COLUMNS), nearest(k, DEPTHS))


CLASSES: tuple[ShapeClass, ...] = tuple(
    ShapeClass(form, m, n, k) for form in FORMS for m in ROWS for n in COLUMNS for k in DEPTHS
)


@lru_cache(1024)
def best_cut(form: Form, m: int, n: int, k: int, units: int, tile: Tile) -> Cut:
    """Choose the cut that the model finds the quickest."""
    return min(cuts(m, n, units, tile), key=lambda cut: cycles(cut, form, m, n, k, units, tile))
