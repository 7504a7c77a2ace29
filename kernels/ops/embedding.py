"""Embedding: rows of a table by their numbers (Bengio et al. 2003), with a sparse gradient.

A minibatch's numbers come from the host, so the host sorts them (`sort_ids`) and uploads the order;
the device then sums the gradients of equal numbers, one after the other as they stood in the input.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kernels.checks import check_same, check_type
from kernels.errors import KernelError
from kernels.interface import Array, Engine
from kernels.operation import Operation

GRAIN = 4096
"""Elements that are worth a work-item."""


@dataclass(frozen=True)
class SortedIds:
    """What the gradient needs to know of N numbers, of which U are different."""

    keys: np.ndarray
    """int32[U]: the different numbers, ascending."""
    order: np.ndarray
    """int32[N]: places in the input, by number and then by place; to be uploaded."""
    starts: np.ndarray
    """int32[N+1]: where in `order` each key's places begin, then N; to be uploaded."""


def sort_ids(ids: np.ndarray) -> SortedIds:
    """Sort a minibatch's numbers, int32 of any shape; stable, so that sums have one order."""
    flat = ids.reshape(-1)
    order = np.argsort(flat, kind="stable").astype(np.int32)
    keys, first = np.unique(flat[order], return_index=True)
    starts = np.full(flat.size + 1, flat.size, np.int32)
    starts[: first.size] = first
    return SortedIds(keys, order, starts)


def embedding(engine: Engine, table: Array, ids: Array, out: Array) -> None:
    """Look up `out[...,D] = table[ids]` of table[V,D] and ids, int32, e.g. [B,T].

    A number outside 0..V-1 gives a row of NaN.
    """
    rows, columns = _check_table("embedding", table)
    check_same("embedding", (out, (*ids.shape, columns)))
    check_type("embedding", out, np.float32)
    check_type("embedding's numbers", ids, np.int32)
    grain = max(1, GRAIN // columns)
    engine.run(EMBEDDING, (table, ids, out), (rows, columns), items=ids.size, grain=grain)


def embedding_gradient(
    engine: Engine, delta: Array, order: Array, starts: Array, out: Array
) -> None:
    """Sum the rows of a lookup's gradient that are of one number: the table's sparse gradient.

    Args:
        engine: where to compute.
        delta: the gradient by the N rows looked up, float32[N,D].
        order: int32[N], from `sort_ids`.
        starts: int32[N+1], from `sort_ids`.
        out: float32[N,D]. Its first U rows become the gradients by the rows `keys` of the table, the
            others zeros: so a recorded step serves any numbers.
    """
    count, columns = _check_table("embedding_gradient", delta)
    check_same("embedding_gradient", (out, delta.shape))
    check_same("embedding_gradient", (order, (count,)), (starts, (count + 1,)))
    check_type("embedding_gradient", out, np.float32)
    for array in (order, starts):
        check_type("embedding_gradient's order", array, np.int32)
    grain = max(1, GRAIN // columns)
    arrays = (delta, order, starts, out)
    engine.run(EMBEDDING_BACK, arrays, (columns,), items=count, grain=grain)


def _check_table(what: str, table: Array) -> tuple[int, int]:
    if len(table.shape) != 2 or 0 in table.shape:
        raise KernelError(f"{what} takes a matrix with rows, got {list(table.shape)}")
    check_type(what, table, np.float32)
    rows, columns = table.shape
    return rows, columns


def embedding_twin(
    table: np.ndarray, ids: np.ndarray, out: np.ndarray, rows: int, columns: int
) -> None:
    """Look rows up."""
    known = (ids >= 0) & (ids < rows)
    out[...] = np.where(known[..., None], table[np.where(known, ids, 0)], np.nan)


def embedding_back_twin(
    delta: np.ndarray, order: np.ndarray, starts: np.ndarray, out: np.ndarray, columns: int
) -> None:
    """Sum rows of one number, in their order."""
    out[...] = 0
    key = np.repeat(np.arange(len(order)), np.diff(starts))
    np.add.at(out, key, delta[order])


EMBEDDING = Operation("embedding", "embedding.cl", 3, (np.int32, np.int32), embedding_twin)
EMBEDDING_BACK = Operation("embedding_back", "embedding.cl", 4, (np.int32,), embedding_back_twin)
