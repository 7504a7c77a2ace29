"""Reductions of matrices and of whole arrays, and the check of finiteness."""

from __future__ import annotations

import numpy as np

from kernels.checks import check_same, check_type, check_whole
from kernels.errors import KernelError
from kernels.interface import Array, Engine
from kernels.operation import Operation

CHUNK = 256
"""Elements that a pass of a sum makes one of: CHUNK in reductions.cl."""

GRAIN = 16384
"""Elements that are worth a work-item where each is only read."""


def column_sum(engine: Engine, a: Array, out: Array) -> None:
    """Sum the rows of a[M,N] into out[N], from the first row to the last."""
    if len(a.shape) != 2 or 0 in a.shape:
        raise KernelError(f"column_sum takes a matrix with rows, got {list(a.shape)}")
    rows, columns = a.shape
    check_same("column_sum", (out, (columns,)))
    for array in (a, out):
        check_type("column_sum", array, np.float32)
    engine.run(COLUMN_SUM, (a, out), (rows,), items=columns, grain=max(16, 4096 // rows))


def all_finite(engine: Engine, a: Array, flag: Array) -> None:
    """Set `flag[1]` int32 to 1 if every element of `a` is finite, else to 0."""
    check_same("all_finite's flag", (flag, (1,)))
    check_type("all_finite", a, np.float32)
    check_type("all_finite's flag", flag, np.int32)
    engine.run(SET_FLAG, (flag,), items=1)
    engine.run(SCAN_FINITE, (a, flag), items=a.size, grain=GRAIN)


def workspace(engine: Engine, size: int) -> Array:
    """Return an array for the sums that make one of up to so many elements."""
    return engine.empty((sum(_passes(size)),))


def square_sum(engine: Engine, a: Array, sums: Array, *, factor: float = 1.0) -> Array:
    """Sum the squares of `a` times `factor`; return the element of `sums` that has the result.

    The order of summation, by halves of chunks of 256, depends on the size alone. `sums` is from
    `workspace`.
    """
    size = check_whole("a sum", a)
    check_type("a sum's workspace", sums, np.float32)
    passes = _passes(size)
    if sums.size < sum(passes):
        raise KernelError(f"a sum over {size} elements needs a workspace of {sum(passes)}")
    at, squared = 0, 1
    for chunks in passes:
        out = sums.view(at, (chunks,))
        engine.run(SUM_CHUNKS, (a, out), (size, factor, squared), items=chunks, grain=64)
        a, size, at, squared = out, chunks, at + chunks, 0
    return a


def _passes(size: int) -> list[int]:
    """Return how many sums each pass over `size` elements makes, down to one."""
    found = [max(1, -(-size // CHUNK))]
    while found[-1] > 1:
        found.append(-(-found[-1] // CHUNK))
    return found


def column_sum_twin(a: np.ndarray, out: np.ndarray, rows: int) -> None:
    """Sum the rows of a[M,N] into out[N], from the first row to the last."""
    np.add.reduce(a, axis=0, out=out)


def set_flag_twin(flag: np.ndarray) -> None:
    """Set the flag."""
    flag[0] = 1


def scan_finite_twin(a: np.ndarray, flag: np.ndarray) -> None:
    """Clear the flag if an element is not finite."""
    if not np.isfinite(a).all():
        flag[0] = 0


def sum_chunks_twin(a: np.ndarray, out: np.ndarray, size: int, factor: float, squared: int) -> None:
    """Sum chunks of 256: 16 sums each, element x in sum x % 16, added up by halves."""
    with np.errstate(all="ignore"):
        terms = a.reshape(-1)
        if squared:
            terms = np.square(terms * a.dtype.type(factor))
        padded = np.zeros((len(out), CHUNK // 16, 16), a.dtype)
        padded.reshape(-1)[:size] = terms
        sums = padded[:, 0]
        for row in range(1, CHUNK // 16):
            sums = sums + padded[:, row]
        while sums.shape[1] > 1:
            half = sums.shape[1] // 2
            sums = sums[:, :half] + sums[:, half:]
        out[...] = sums[:, 0]


COLUMN_SUM = Operation("column_sum", "reductions.cl", 2, (np.int32,), column_sum_twin)
SET_FLAG = Operation("set_flag", "reductions.cl", 1, (), set_flag_twin)
SCAN_FINITE = Operation("scan_finite", "reductions.cl", 2, (), scan_finite_twin)
SUM_CHUNKS = Operation(
    "sum_chunks", "reductions.cl", 2, (np.uint64, np.float32, np.int32), sum_chunks_twin
)
