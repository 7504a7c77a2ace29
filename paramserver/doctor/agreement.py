"""Compare a device's results with numpy's: a driver may be quick and wrong."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from kernels.device.discovery import numpy_device
from kernels.host import NumpyEngine
from kernels.interface import Array, Engine, Form
from kernels.ops import losses, random, reductions

TOLERANCE = 1e-4
"""Largest difference allowed, relative to the largest number of numpy's result."""

ROWS, COLUMNS, INNER = 70, 33, 130
"""An extent that no tile divides, so that edges are computed too."""


def disagreements(engine: Engine) -> list[str]:
    """Return the operations whose results differ from numpy's; empty where all agree."""
    wrong = []
    twin = NumpyEngine(numpy_device())
    for (name, got), (_, wanted) in zip(_results(engine), _results(twin), strict=True):
        largest = float(np.abs(wanted).max())
        if not np.allclose(got, wanted, rtol=0.0, atol=TOLERANCE * largest):
            wrong.append(name)
    return wrong


def _results(engine: Engine) -> Iterator[tuple[str, np.ndarray]]:
    """Yield each operation's name and result, on inputs that are the same on every device."""

    def filled(*shape: int) -> Array:
        array = engine.empty(shape)
        random.uniform(engine, array, key=(7, 11), counter=0)
        return array

    def result(array: Array) -> np.ndarray:
        host = np.empty(array.shape, array.dtype)
        engine.download(array, host)
        engine.wait()
        return host

    yield "uniform", result(filled(ROWS, COLUMNS))
    forms: tuple[Form, ...] = ("nn", "tn", "nt")
    for form in forms:
        a = filled(INNER, ROWS) if form == "tn" else filled(ROWS, INNER)
        b = filled(COLUMNS, INNER) if form == "nt" else filled(INNER, COLUMNS)
        product = engine.empty((ROWS, COLUMNS))
        sums = engine.empty((COLUMNS,))
        engine.matmul(a, b, product, form=form, column_sums=sums)
        yield f"matmul {form}", result(product)
        yield f"column sums {form}", result(sums)
    given, total = filled(ROWS, COLUMNS), engine.empty((COLUMNS,))
    reductions.column_sum(engine, given, total)
    yield "column_sum", result(total)
    delta, stats = engine.empty((ROWS, COLUMNS)), engine.empty((2,))
    labels = engine.empty((ROWS,), np.int32)
    names = np.arange(ROWS, dtype=np.int32) % COLUMNS
    engine.upload(labels, names)
    rows = losses.workspace(engine, ROWS)
    losses.softmax_cross_entropy(engine, given, labels, delta, stats, rows)
    yield "softmax_cross_entropy", result(delta)
    losses.mean_squared_error(engine, given, filled(ROWS, COLUMNS), delta, stats, rows)
    yield "mean_squared_error", result(stats)
    flag = engine.empty((1,), np.int32)
    engine.upload(flag, np.ones(1, np.int32))
    reductions.clear_unless_finite(engine, given, flag)
    yield "clear_unless_finite", result(flag)
