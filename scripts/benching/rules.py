"""Update rules: the fused kernels against plain numpy expressions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from benching.comparing import compare
from benching.conversation import Conversation
from benching.printing import Sheet
from benching.processes import begun, side
from benching.rows import Case, Ready
from benching.suites import Settings, Suite
from benching.timing import Loop, Looped, sets_for
from kernels.engine import Engine, open_engine
from kernels.rule_twin import RuleTwin
from kernels.rules import RuleRunner, RuleSpec, Update, state_count
from paramserver.slices import aligned

Floats = npt.NDArray[np.float32]

RULES = ("sgd", "momentum", "adam")
SIZES = {
    "4KiB": 1 << 12,
    "64KiB": 1 << 16,
    "1MiB": 1 << 20,
    "8MiB": 1 << 23,
    "64MiB": 1 << 26,
}
"""Bytes of weights."""
RATE = 1e-4
SCALE = 1 / 128


def cases(quick: bool) -> list[Case]:
    """Return the updates, named rule/size; a figure counts what must be read and written once."""
    sizes = ("64KiB",) if quick else tuple(SIZES)
    return [
        Case(
            f"{rule}/{size}",
            "GB/s",
            1e-9 * SIZES[size] * arrays_moved(rule),
            {"rule": rule, "size": SIZES[size] // 4},
        )
        for rule in RULES
        for size in sizes
    ]


def arrays_moved(rule: str) -> int:
    """Return how many arrays an update must move: weights both ways, gradient, state both ways."""
    return 3 + 2 * state_count(rule)


async def run(settings: Settings, sheet: Sheet) -> None:
    """Measure every rule and size on both sides."""
    async with (
        side("rules", "ours", settings, ours=True) as ours,
        side("rules", "numpy", settings, ours=False) as other,
    ):
        await begun(ours, other)
        sheet.note(f"ours: {ours.about}")
        sheet.note(f"other: {other.about}")
        updates = cases(settings.quick)
        await compare(sheet, "rules", updates, ours, {"numpy": other}, settings.turns)


SUITE = Suite(
    "rules",
    "one update of weights by a rule, as a shard applies it, against plain numpy",
    ("GB/s of what must be read and written once; beside it our numpy twin, and a plain copy",),
    run,
)


class Arrays:
    """What an update works on: weights, gradient and state."""

    def __init__(self, rule: str, size: int, source: np.random.Generator) -> None:
        self.weights, self.gradient, *state = (aligned(size) for _ in range(2 + state_count(rule)))
        self.weights[:] = source.random(size, np.float32)
        self.gradient[:] = source.random(size, np.float32) - np.float32(0.5)
        for one in state:
            one[:] = 0
        self.state = tuple(state)
        self.step = 0

    def update(self) -> Update:
        """Return the next update, in place."""
        self.step += 1
        return Update(
            weights=self.weights,
            out=self.weights,
            state=self.state,
            gradient=self.gradient,
            scale=SCALE,
            rate=RATE,
            step=self.step,
        )


def sets_of(rule: str, size: int) -> list[Arrays]:
    """Return sets of arrays, the same on both sides."""
    source = np.random.default_rng(1)
    count = sets_for(4 * size * (2 + state_count(rule)))
    return [Arrays(rule, size, source) for _ in range(count)]


def after_two(sets: list[Arrays], apply: Callable[[Arrays], None]) -> float:
    """Update the first set twice; return a number by which the sides are compared."""
    before = sets[0].weights.copy()
    apply(sets[0])
    apply(sets[0])
    return float(np.abs(sets[0].weights - before).sum(dtype=np.float64))


class Ours(Looped):
    """Updates by the rule runner, as a shard applies them."""

    def __init__(self, engine: Engine, *, quick: bool) -> None:
        self._runners = {rule: RuleRunner(engine, RuleSpec(rule)) for rule in RULES}
        self._quick = quick

    async def prepare(self, rule: str, size: int) -> Ready:
        """Make the arrays, and update each set."""
        sets, runner = sets_of(rule, size), self._runners[rule]

        def apply(arrays: Arrays) -> None:
            runner.apply([arrays.update()])

        result = after_two(sets, apply)
        self.loop = Loop(lambda number: apply(sets[number]), len(sets), quick=self._quick)
        return Ready(result)


class Numpy:
    """The same by plain expressions, by the rule's numpy twin, and a copy of as many bytes."""

    def __init__(self, *, quick: bool) -> None:
        self._quick = quick

    async def prepare(self, rule: str, size: int) -> Ready:
        """Make the arrays, and update each set."""
        sets, twin, plain = sets_of(rule, size), RuleTwin(RuleSpec(rule)), PLAIN[rule]
        result = after_two(sets, plain)
        # What a copy reads and writes is what the update must read and write.
        half = arrays_moved(rule) * size // 2
        source = [np.ones(half, np.float32) for _ in range(sets_for(8 * half))]
        target = [np.zeros(half, np.float32) for _ in source]
        self.loop = Loop(lambda number: plain(sets[number]), len(sets), quick=self._quick)
        self._twin = Loop(
            lambda number: twin.apply(sets[number].update()), len(sets), quick=self._quick
        )
        self._copy = Loop(
            lambda number: np.copyto(target[number], source[number]),
            len(source),
            quick=self._quick,
        )
        return Ready(result, threads=1)

    async def measure(self) -> dict[str, float]:
        """Update in both ways, and copy."""
        return {
            "seconds": self.loop.seconds(),
            "twin": self._twin.seconds(),
            "copy": self._copy.seconds(),
        }


def plain_sgd(arrays: Arrays) -> None:
    """Write sgd as one would in numpy."""
    arrays.weights -= np.float32(RATE * SCALE) * arrays.gradient


def plain_momentum(arrays: Arrays) -> None:
    """Write momentum as one would in numpy."""
    velocity = arrays.state[0]
    velocity *= np.float32(0.9)
    velocity += np.float32(SCALE) * arrays.gradient
    arrays.weights -= np.float32(RATE) * velocity


def plain_adam(arrays: Arrays) -> None:
    """Write adam (Kingma and Ba 2015) as one would in numpy."""
    arrays.step += 1
    mean, square = arrays.state
    gradient = np.float32(SCALE) * arrays.gradient
    mean *= np.float32(0.9)
    mean += np.float32(0.1) * gradient
    square *= np.float32(0.999)
    square += np.float32(0.001) * gradient * gradient
    rate = np.float32(RATE / (1 - 0.9**arrays.step))
    correction = np.float32((1 - 0.999**arrays.step) ** -0.5)
    arrays.weights -= rate * mean / (correction * np.sqrt(square) + np.float32(1e-8))


PLAIN: dict[str, Callable[[Arrays], None]] = {
    "sgd": plain_sgd,
    "momentum": plain_momentum,
    "adam": plain_adam,
}


async def ours_side(conversation: Conversation) -> None:
    """Update by the rule runner as asked."""
    settings = conversation.settings
    engine = open_engine(settings["device"])
    ours = Ours(engine, quick=settings["quick"])
    await conversation.answer(str(engine.info), ours)


async def numpy_side(conversation: Conversation) -> None:
    """Update by numpy as asked."""
    about = f"numpy {np.__version__}, which updates and copies on one thread"
    await conversation.answer(about, Numpy(quick=conversation.settings["quick"]))


SIDES = {"ours": ours_side, "numpy": numpy_side}
