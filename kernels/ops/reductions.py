"""Reductions of matrices and of whole arrays: sums, norms, the largest; and the check of finiteness.

The order of every sum depends on shapes alone, and is the same on every device.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from kernels.checks import check_same, check_type, check_whole
from kernels.errors import KernelError
from kernels.interface import Array, Engine
from kernels.operation import Operation

CHUNK = 256
"""Elements that a pass of a sum makes one of: CHUNK in reductions.cl."""

GRAIN = 16384
"""Elements that are worth a work-item where each is only read."""

Reduction = Literal["sum", "max", "argmax", "l1", "l2"]

_TERMS: dict[str, int] = {"sum": 0, "l2": 1, "l1": 2}
"""What of an element is summed: TERM_... in reductions.cl."""


def column_sum(engine: Engine, a: Array, out: Array) -> None:
    """Sum the rows of a[M,N] into out[N], from the first row to the last."""
    rows, columns = _check_matrix("column_sum", a)
    check_same("column_sum", (out, (columns,)))
    check_type("column_sum", out, np.float32)
    engine.run(COLUMN_SUM, (a, out), (rows,), items=columns, grain=max(16, 4096 // rows))


def clear_unless_finite(engine: Engine, a: Array, flag: Array) -> None:
    """Set `flag[1]` int32 to 0 if an element of `a` is not finite; else leave it as it is."""
    check_same("clear_unless_finite's flag", (flag, (1,)))
    check_type("clear_unless_finite", a, np.float32)
    check_type("clear_unless_finite's flag", flag, np.int32)
    engine.run(SCAN_FINITE, (a, flag), items=a.size, grain=GRAIN)


def reduce_rows(engine: Engine, kind: Reduction, a: Array, out: Array) -> None:
    """Reduce each row of a[M,N] to an element of out[M]: int32 for "argmax", float32 for others.

    "l1" and "l2" are norms; the squares are summed in float32. A NaN is larger than every number, and
    of equals the first is the largest.
    """
    rows, columns = _check_matrix("reduce_rows", a)
    check_same("reduce_rows", (out, (rows,)))
    _check_result("reduce_rows", kind, out)
    grain = max(1, 4096 // columns)
    if kind in _TERMS:
        numbers = (columns, _TERMS[kind])
        engine.run(SUM_ROWS_OF, (a, out), numbers, items=rows, grain=grain)
    else:
        operation = ARGMAX_ROWS if kind == "argmax" else MAX_ROWS
        engine.run(operation, (a, out), (columns,), items=rows, grain=grain)


def reduce_all(engine: Engine, kind: Reduction, a: Array, out: Array, work: Array) -> None:
    """Reduce `a`, of any shape, to out[1]; as `reduce_rows`, but for the order of summation.

    `work` is from `workspace` for the kind.
    """
    size = check_whole("reduce_all", a)
    check_same("reduce_all", (out, (1,)))
    _check_result("reduce_all", kind, out)
    if kind in _TERMS:
        result = _sum(engine, a, work, _TERMS[kind], 1.0, out)
        if kind == "l2":
            engine.run(ROOTS, (result, out), items=1)
        return
    if not 0 < size < 1 << 31:
        raise KernelError(f"the largest of {size} elements is not to be had")
    passes, picked = _check_work(work, size, np.int32), work
    at, count = 0, size
    for chunks in passes:
        last = chunks == 1 and kind == "argmax"
        places = out if last else work.view(at, (chunks,))
        numbers = (count, int(at > 0))
        engine.run(ARGMAX_CHUNKS, (a, picked, places), numbers, items=chunks, grain=16)
        picked, count, at = places, chunks, at + chunks
    if kind == "max":
        engine.run(PICK, (a, picked, out), items=1)


def top_k(engine: Engine, a: Array, values: Array, places: Array) -> None:
    """Find the K largest of each row of a[M,N], descending: values[M,K], and places[M,K] int32.

    A NaN is larger than every number, and equals come in their order.
    """
    rows, columns = _check_matrix("top_k", a)
    count = values.shape[-1]
    if not 0 < count <= columns:
        raise KernelError(f"top_k: there are no {count} largest of {columns}")
    check_same("top_k", (values, (rows, count)), (places, (rows, count)))
    check_type("top_k", values, np.float32)
    check_type("top_k's places", places, np.int32)
    grain = max(1, 4096 // columns)
    engine.run(TOP_K, (a, values, places), (columns, count), items=rows, grain=grain)


def workspace(engine: Engine, size: int, kind: Reduction = "sum") -> Array:
    """Return an array for what `reduce_all` makes on its way, of up to so many elements."""
    return engine.empty((sum(_passes(size)),), np.float32 if kind in _TERMS else np.int32)


def square_sum(engine: Engine, a: Array, work: Array, *, factor: float = 1.0) -> Array:
    """Sum the squares of `a` times `factor`; return the element of `work` that has the result.

    The order of summation, by halves of chunks of 256, depends on the size alone. `work` is from
    `workspace`.
    """
    return _sum(engine, a, work, _TERMS["l2"], factor)


def _sum(
    engine: Engine, a: Array, work: Array, term: int, factor: float, result: Array | None = None
) -> Array:
    """Sum terms pass by pass; return where the last one went: to `result`, or into `work`."""
    size, at = check_whole("a sum", a), 0
    for chunks in _check_work(work, size, np.float32):
        out = work.view(at, (chunks,)) if chunks > 1 or result is None else result
        engine.run(SUM_CHUNKS, (a, out), (size, factor, term), items=chunks, grain=64)
        a, size, at, term = out, chunks, at + chunks, 0
    return a


def _passes(size: int) -> list[int]:
    """Return how many chunks each pass over `size` elements makes, down to one."""
    found = [max(1, -(-size // CHUNK))]
    while found[-1] > 1:
        found.append(-(-found[-1] // CHUNK))
    return found


def _check_work(work: Array, size: int, wanted: type[np.generic]) -> list[int]:
    """Return the passes over `size` elements."""
    check_type("a reduction's workspace", work, wanted)
    passes = _passes(size)
    if work.size < sum(passes):
        raise KernelError(f"a reduction of {size} elements needs a workspace of {sum(passes)}")
    return passes


def _check_matrix(what: str, a: Array) -> tuple[int, int]:
    if len(a.shape) != 2 or 0 in a.shape:
        raise KernelError(f"{what} takes a matrix with rows, got {list(a.shape)}")
    check_type(what, a, np.float32)
    rows, columns = a.shape
    return rows, columns


def _check_result(what: str, kind: Reduction, out: Array) -> None:
    if kind not in get_args(Reduction):
        raise KernelError(
            f"unknown reduction {kind!r}: use one of {', '.join(get_args(Reduction))}"
        )
    check_type(f"{what}'s result", out, np.int32 if kind == "argmax" else np.float32)


def column_sum_twin(a: np.ndarray, out: np.ndarray, rows: int) -> None:
    """Sum the rows of a[M,N] into out[N], from the first row to the last."""
    np.add.reduce(a, axis=0, out=out)


def scan_finite_twin(a: np.ndarray, flag: np.ndarray) -> None:
    """Clear the flag if an element is not finite."""
    if not np.isfinite(a).all():
        flag[0] = 0


def _terms(a: np.ndarray, factor: float, term: int) -> np.ndarray:
    """Return what is summed."""
    if term == _TERMS["l2"]:
        a = np.square(a * a.dtype.type(factor))
    elif term == _TERMS["l1"]:
        a = np.abs(a)
    return a


def _sum_lanes(terms: np.ndarray) -> np.ndarray:
    """Sum the last axis of terms[M,N]: 16 sums, element x in sum x % 16, added up by halves."""
    rows, columns = terms.shape
    padded = np.zeros((rows, max(1, -(-columns // 16)), 16), terms.dtype)
    padded.reshape(rows, -1)[:, :columns] = terms
    sums: np.ndarray = np.add.accumulate(padded, axis=1)[:, -1]
    while sums.shape[1] > 1:
        half = sums.shape[1] // 2
        sums = sums[:, :half] + sums[:, half:]
    return sums[:, 0]


def sum_chunks_twin(a: np.ndarray, out: np.ndarray, size: int, factor: float, term: int) -> None:
    """Sum chunks of 256."""
    with np.errstate(all="ignore"):
        padded = np.zeros((out.size, CHUNK), a.dtype)
        padded.reshape(-1)[:size] = _terms(a.reshape(-1), factor, term)
        out[...] = _sum_lanes(padded)


def sum_rows_of_twin(a: np.ndarray, out: np.ndarray, columns: int, term: int) -> None:
    """Sum rows."""
    with np.errstate(all="ignore"):
        sums = _sum_lanes(_terms(a, 1, term))
        out[...] = np.sqrt(sums) if term == _TERMS["l2"] else sums


def roots_twin(a: np.ndarray, out: np.ndarray) -> None:
    """Take square roots."""
    np.sqrt(a, out=out)


def argmax_rows_twin(a: np.ndarray, out: np.ndarray, columns: int) -> None:
    """Find rows' largest places."""
    out[...] = a.argmax(axis=1)


def max_rows_twin(a: np.ndarray, out: np.ndarray, columns: int) -> None:
    """Find rows' largest elements."""
    a.max(axis=1, out=out)


def argmax_chunks_twin(
    a: np.ndarray, places: np.ndarray, out: np.ndarray, size: int, picked: int
) -> None:
    """Find chunks' largest places."""
    at = places[:size] if picked else np.arange(size)
    for chunk in range(out.size):
        part = at[chunk * CHUNK : (chunk + 1) * CHUNK]
        out[chunk] = part[a.reshape(-1)[part].argmax()]


def pick_twin(a: np.ndarray, places: np.ndarray, out: np.ndarray) -> None:
    """Take the elements at places."""
    out[...] = a.reshape(-1)[places]


def top_k_twin(
    a: np.ndarray, values: np.ndarray, places: np.ndarray, columns: int, count: int
) -> None:
    """Sort rows from the largest on, and take the first."""
    nan = np.isnan(a)
    order = np.lexsort((np.where(nan, 0, -a), ~nan), axis=1)[:, :count]
    places[...] = order
    values[...] = np.take_along_axis(a, order, axis=1)


COLUMN_SUM = Operation("column_sum", "reductions.cl", 2, (np.int32,), column_sum_twin)
SCAN_FINITE = Operation("scan_finite", "reductions.cl", 2, (), scan_finite_twin)
SUM_CHUNKS = Operation(
    "sum_chunks", "reductions.cl", 2, (np.uint64, np.float32, np.int32), sum_chunks_twin
)
SUM_ROWS_OF = Operation("sum_rows_of", "reductions.cl", 2, (np.int32, np.int32), sum_rows_of_twin)
ROOTS = Operation("roots", "reductions.cl", 2, (), roots_twin)
ARGMAX_ROWS = Operation("argmax_rows", "reductions.cl", 2, (np.int32,), argmax_rows_twin)
MAX_ROWS = Operation("max_rows", "reductions.cl", 2, (np.int32,), max_rows_twin)
ARGMAX_CHUNKS = Operation(
    "argmax_chunks", "reductions.cl", 3, (np.uint64, np.int32), argmax_chunks_twin
)
PICK = Operation("pick", "reductions.cl", 3, (), pick_twin)
TOP_K = Operation("top_k", "reductions.cl", 3, (np.int32, np.int32), top_k_twin)
