import numpy as np
import pytest
from exchange import get, normal, put
from gradients import assert_gradient

from kernels.engine import Engine
from kernels.errors import KernelError
from kernels.ops.embedding import (
    embedding,
    embedding_back_twin,
    embedding_gradient,
    embedding_twin,
    sort_ids,
)

CASES = [((1, 1), (1, 1)), ((5, 16), (3, 4)), ((50, 33), (7, 20)), ((1000, 64), (32, 25))]


def numbers(table: tuple[int, int], shape: tuple[int, int]) -> np.ndarray:
    random = np.random.default_rng(1)
    # Half of them from a few, so that many are equal.
    few = random.integers(0, max(1, table[0] // 10), shape, np.int32)
    return np.where(random.random(shape) < 0.5, few, random.integers(0, table[0], shape, np.int32))


@pytest.mark.parametrize(("table", "shape"), CASES, ids=str)
def test_rows_are_looked_up_and_equal_numbers_summed_in_order(
    engine: Engine, table: tuple[int, int], shape: tuple[int, int]
) -> None:
    ids, rows, depth = numbers(table, shape), normal(1, *table), table[1]
    out = engine.empty((*shape, depth))
    embedding(engine, put(engine, rows), put(engine, ids), out)
    np.testing.assert_array_equal(get(engine, out), rows[ids])

    delta = normal(2, ids.size, depth)
    found, by = sort_ids(ids), engine.empty((ids.size, depth))
    order, starts = put(engine, found.order), put(engine, found.starts)
    embedding_gradient(engine, put(engine, delta), order, starts, by)
    sums = get(engine, by)
    wanted = np.zeros(table, np.float32)
    for place, number in enumerate(ids.reshape(-1)):
        wanted[number] += delta[place]
    np.testing.assert_array_equal(found.keys, np.unique(ids))
    np.testing.assert_array_equal(sums[: found.keys.size], wanted[found.keys])
    assert (sums[found.keys.size :] == 0).all()


def test_the_gradient_is_that_of_finite_differences() -> None:
    table, ids = normal(1, 4, 3).astype(float), np.array([[0, 2], [2, 2], [1, 0]], np.int32)
    by, out = normal(2, 6, 3).astype(float), np.empty((3, 2, 3))
    found, sums = sort_ids(ids), np.empty((6, 3))

    def objective() -> float:
        embedding_twin(table, ids, out, 4, 3)
        return float((out.reshape(6, 3) * by).sum())

    embedding_back_twin(by, found.order, found.starts, sums, 3)
    whole = np.zeros((4, 3))
    whole[found.keys] = sums[: found.keys.size]
    assert_gradient(objective, table, whole)


def test_an_unknown_number_and_a_nan_give_nan(engine: Engine) -> None:
    rows = normal(1, 3, 17)
    rows[1, 3] = np.nan
    ids = np.array([[0, 3], [-1, 1]], np.int32)
    out = engine.empty((2, 2, 17))
    embedding(engine, put(engine, rows), put(engine, ids), out)
    nan = np.isnan(get(engine, out))
    assert nan.sum(axis=2).tolist() == [[0, 17], [17, 1]]
    delta, same = normal(2, 4, 17), sort_ids(np.array([5, 9, 5, 5], np.int32))
    delta[2, 16] = np.nan
    by = engine.empty((4, 17))
    order, starts = put(engine, same.order), put(engine, same.starts)
    embedding_gradient(engine, put(engine, delta), order, starts, by)
    assert np.argwhere(np.isnan(get(engine, by))).tolist() == [[0, 16]]


def test_shapes_that_do_not_fit_are_refused(engine: Engine) -> None:
    table, ids, out = engine.empty((5, 3)), engine.empty((2,), np.int32), engine.empty((2, 3))
    with pytest.raises(KernelError, match=r"expected shape \[2, 3\]"):
        embedding(engine, table, ids, engine.empty((2, 4)))
    with pytest.raises(KernelError, match="numbers takes int32"):
        embedding(engine, table, engine.empty((2,)), out)
    with pytest.raises(KernelError, match="takes a matrix with rows"):
        embedding(engine, engine.empty((5,)), ids, out)
    with pytest.raises(KernelError, match=r"expected shape \[3\]"):
        embedding_gradient(engine, out, ids, ids, out)
