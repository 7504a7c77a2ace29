"""What one shard holds: tables, slices, versions of weights, and the jobs that make new ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from kernels.rules import RuleSpec
from paramserver.averaging import Doubles
from paramserver.clocks import Histogram
from paramserver.ledger import Ledger
from paramserver.placement import slice_bounds
from paramserver.spec import Rule, TableSpec
from paramserver.types import PeerId

Floats = npt.NDArray[np.float32]
ALIGNMENT = 128


def aligned(count: int) -> Floats:
    """Return an uninitialised float32 array whose memory begins at a multiple of 128 bytes."""
    raw = np.empty(count * 4 + ALIGNMENT, dtype=np.uint8)
    skip = -raw.ctypes.data % ALIGNMENT
    return raw[skip : skip + count * 4].view(np.float32)


def is_finite(values: Floats) -> bool:
    """Say whether all ``values`` are finite, in one read-only pass where they are.

    A finite sum proves it: NaN and infinities survive addition. Only where finite values overflow
    the sum is a second look needed.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(values.sum())) or bool(np.isfinite(values).all())


def kernel_rule(rule: Rule) -> RuleSpec:
    """Return the kernels' form of a rule (the schedule stays on this side)."""
    return RuleSpec(
        name=rule.name,
        momentum=rule.momentum,
        beta1=rule.beta1,
        beta2=rule.beta2,
        decay=rule.decay,
        epsilon=rule.epsilon,
        weight_decay=rule.weight_decay,
    )


class Shared:
    """A claim on memory that several users hold: ``free`` is called when the last lets go."""

    def __init__(self, free: Callable[[], None], users: int = 0) -> None:
        self._free: Callable[[], None] | None = free
        self.users = users

    def release(self) -> None:
        """Let go of one use."""
        self.users -= 1
        if self.users <= 0:
            self.free()

    def free(self) -> None:
        """Let go of all uses: there will be none."""
        if self._free is not None:
            free, self._free = self._free, None
            free()


class Weights:
    """One published version of a slice: immutable, pinned by the pulls that send it."""

    __slots__ = ("array", "clock", "n", "pins", "retired")

    def __init__(self, array: Floats, n: int, clock: int) -> None:
        self.array = array
        self.n = n
        self.clock = clock
        self.pins = 0
        self.retired = False

    def __repr__(self) -> str:
        return f"<Weights n={self.n} clock={self.clock} of {self.array.size}, {self.pins} pins>"


@dataclass(slots=True)
class Captured:
    """A copy of a slice's weights and rule state for a checkpoint, whole once ``done``.

    In bsp it is as of the beginning of ``clock``; ``arrays`` is empty until that has come.
    """

    clock: int
    n: int = 0
    arrays: tuple[Floats, ...] = ()
    done: bool = False


class Slice:
    """One slice as its primary holds it."""

    def __init__(self, table: str, index: int, size: int, epoch: int, states: int) -> None:
        self.table = table
        self.index = index
        self.size = size
        self.epoch = epoch
        self.current: Weights | None = None
        self.previous: Weights | None = None  # bsp: the clock's before, until this one closes
        self.head: Floats | None = None
        self.state = tuple(np.zeros(0, np.float32) for _ in range(states))
        self.accepted = 0
        self.ledger = Ledger()
        self.clock = 0
        self.closed = 0  # clocks whose last job was made; ``clock`` follows when it has run
        self.captured: Captured | None = None
        self.folded = 0
        self.seen: set[int] = set()
        self.staged: dict[int, tuple[Floats, int]] = {}
        self.examples = 0
        self.sum: Floats | None = None
        self.weighted_sum: Doubles | None = None

    def __repr__(self) -> str:
        return (
            f"<Slice {self.table}/{self.index} of {self.size}, epoch {self.epoch}, "
            f"{self.accepted} updates, clock {self.clock}>"
        )


@dataclass(slots=True)
class Job:
    """Numerical work on one slice, to be run on the applier thread in the order it was made.

    ``gradient`` is added to the clock's sum where ``fold`` says so; where ``out`` is given the rule
    is then applied to the sum (bsp) or to the gradient. Where there is a ``weight``, a part's
    examples, the gradient is a worker's weights, and ``out`` becomes the mean of the clock's, of
    ``total`` examples. A job with ``captured`` copies the slice as the jobs before it made it, and
    does nothing else.
    """

    slice: Slice
    rule: RuleSpec
    gradient: Floats
    memory: Shared
    fold: bool = False
    first: bool = False
    weight: int | None = None
    total: int = 0
    out: Floats | None = None
    scale: float = 1.0
    rate: float = 0.0
    step: int = 0
    push: tuple[PeerId, int] | None = None
    captured: Captured | None = None


@dataclass(slots=True)
class Accepted:
    """The outcome of a push: the jobs to run, what of it was a repeat, its staleness by slice."""

    jobs: list[Job] = field(default_factory=list)
    repeats: int = 0
    joined: int = 0
    staleness: list[int] = field(default_factory=list)


class Spares:
    """Arrays of one table's slices that nobody uses now."""

    def __init__(self) -> None:
        self._free: dict[int, list[Floats]] = {}

    def __repr__(self) -> str:
        return f"<Spares: {sum(map(len, self._free.values()))} arrays>"

    def take(self, size: int) -> Floats:
        """Return an array of so many elements, with anything in it."""
        free = self._free.get(size)
        return free.pop() if free else aligned(size)

    def give(self, array: Floats) -> None:
        """Take an array that nobody reads any more."""
        self._free.setdefault(array.size, []).append(array)


class Table:
    """The part of a table that this shard holds."""

    def __init__(self, name: str, spec: TableSpec, attempt: int) -> None:
        self.name = name
        self.spec = spec
        self.attempt = attempt
        self.bounds = slice_bounds(spec.size)
        self.rule = kernel_rule(spec.rule)
        self.slices: dict[int, Slice] = {}
        self.spares = Spares()
        self.evicted: set[PeerId] = set()
        self.staleness = Histogram()
        self.applied = 0
        self.repeated = 0
        self.refused = 0

    def __repr__(self) -> str:
        return f"<Table {self.name}: {len(self.slices)} of {len(self.bounds) - 1} slices>"

    def size_of(self, index: int) -> int:
        """Return the number of elements of slice ``index``."""
        return self.bounds[index + 1] - self.bounds[index]

    @property
    def clock(self) -> int:
        """The smallest clock of the slices held here."""
        return min((held.clock for held in self.slices.values()), default=0)
