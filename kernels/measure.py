"""Measure each kernel family shortly, for `paramserver doctor`: under 5 s with warm kernels."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from kernels.interface import Array, Engine, Form
from kernels.ops import losses, random, reductions
from kernels.rules import RuleRunner, RuleSpec, Update, state_count

SECONDS = 0.06
"""Time for one case, in three rounds of which the best counts."""

PRODUCTS: tuple[tuple[int, int, int], ...] = ((128, 512, 784), (128, 512, 512), (512, 512, 512))
"""(M, N, K) of the measured products."""


@dataclass(frozen=True)
class Measurement:
    """One figure of one kernel family."""

    family: str
    case: str
    value: float
    unit: str
    """"GFLOP/s", "GB/s" or "µs"."""

    def __str__(self) -> str:
        return f"{self.family} {self.case}: {self.value:.3g} {self.unit}"


def measure(engine: Engine) -> Iterator[Measurement]:
    """Yield the figures of every family on a device: products, losses, sums, rules, launches.

    GB/s count the bytes that a case must read and write at least once.
    """
    yield from _launches(engine)
    yield from _products(engine)
    yield from _elementwise(engine)
    yield from _losses(engine)
    yield from _rules(engine)


def _seconds(engine: Engine, run: Callable[[], None]) -> float:
    """Return the best mean time of a run among pipelined ones with one wait at the end."""
    run()
    engine.wait()
    start = time.perf_counter()
    run()
    engine.wait()
    once = max(time.perf_counter() - start, 1e-6)
    count = max(1, min(1000, int(SECONDS / 3 / once)))
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        for _ in range(count):
            run()
        engine.wait()
        best = min(best, (time.perf_counter() - start) / count)
    return best


def _filled(engine: Engine, shape: tuple[int, ...], seed: int) -> Array:
    array = engine.empty(shape)
    random.uniform(engine, array, key=(seed, 0), counter=0)
    return array


def _launches(engine: Engine) -> Iterator[Measurement]:
    one, out = _filled(engine, (1, 1), 1), engine.empty((1,))

    def run() -> None:
        reductions.column_sum(engine, one, out)

    def run_and_wait() -> None:
        run()
        engine.wait()

    yield Measurement("launch", "pipelined", _seconds(engine, run) * 1e6, "µs")
    yield Measurement("launch", "with a wait", _seconds(engine, run_and_wait) * 1e6, "µs")


def _products(engine: Engine) -> Iterator[Measurement]:
    forms: tuple[Form, ...] = ("nn", "tn", "nt")
    for form in forms:
        for m, n, k in PRODUCTS:
            a = _filled(engine, (k, m) if form == "tn" else (m, k), 1)
            b = _filled(engine, (n, k) if form == "nt" else (k, n), 2)
            out = engine.empty((m, n))

            def run(a: Array = a, b: Array = b, out: Array = out, form: Form = form) -> None:
                engine.matmul(a, b, out, form=form)

            rate = 2e-9 * m * n * k / _seconds(engine, run)
            yield Measurement("matmul", f"{form}/{m}x{n}x{k}", rate, "GFLOP/s")


def _elementwise(engine: Engine) -> Iterator[Measurement]:
    rows, columns = 1024, 1024
    a, out = _filled(engine, (rows, columns), 1), engine.empty((columns,))
    flag = engine.empty((1,), np.int32)
    host = np.zeros((rows, columns), np.float32)
    gigabytes = rows * columns * 4e-9
    cases: dict[str, Callable[[], None]] = {
        "column_sum": lambda: reductions.column_sum(engine, a, out),
        "clear_unless_finite": lambda: reductions.clear_unless_finite(engine, a, flag),
        "uniform": lambda: random.uniform(engine, a, key=(1, 2), counter=0),
        "upload": lambda: engine.upload(a, host),
        "download": lambda: engine.download(a, host),
    }
    for case, run in cases.items():
        yield Measurement("elementwise", case, gigabytes / _seconds(engine, run), "GB/s")


def _losses(engine: Engine) -> Iterator[Measurement]:
    rows, columns = 4096, 10
    given, wanted = _filled(engine, (rows, columns), 1), _filled(engine, (rows, columns), 2)
    delta, stats = engine.empty((rows, columns)), engine.empty((2,))
    labels = engine.empty((rows,), np.int32)
    engine.upload(labels, np.arange(rows, dtype=np.int32) % columns)
    matrix = rows * columns * 4e-9
    work = losses.workspace(engine, rows)
    cases = (
        (losses.softmax_cross_entropy, labels, 2 * matrix),
        (losses.mean_squared_error, wanted, 3 * matrix),
    )
    for loss, target, moved in cases:
        run = partial(loss, engine, given, target, delta, stats, work)
        yield Measurement("loss", loss.__name__, moved / _seconds(engine, run), "GB/s")


def _rules(engine: Engine) -> Iterator[Measurement]:
    size = 1 << 20
    for name in ("sgd", "momentum", "adam"):
        runner = RuleRunner(engine, RuleSpec(name))
        arrays = np.zeros((2 + state_count(name), size), np.float32)
        weights, gradient, *state = arrays
        update = Update(weights, weights, tuple(state), gradient, 1.0, 0.001, 1)
        took = _seconds(engine, lambda r=runner, u=update: r.apply([u]))  # type: ignore[misc]
        moved = (3 + 2 * len(state)) * size * 4e-9
        yield Measurement("rule", f"{name}/{size}", moved / took, "GB/s")
