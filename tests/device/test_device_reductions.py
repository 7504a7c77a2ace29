import numpy as np
import pytest
from exchange import get, normal, put

from kernels.device.discovery import numpy_device
from kernels.engine import Engine
from kernels.errors import KernelError
from kernels.host import NumpyEngine
from kernels.ops import reductions
from kernels.ops.reductions import Reduction

SUMS: tuple[Reduction, ...] = ("sum", "l1")
KINDS: tuple[Reduction, ...] = ("sum", "l1", "l2", "max", "argmax")


@pytest.mark.parametrize("shape", [(1, 1), (3, 17), (33, 129), (128, 784)], ids=str)
def test_column_sum_adds_rows_in_order(engine: Engine, shape: tuple[int, int]) -> None:
    a = normal(3, *shape)
    out = engine.empty((shape[1],))
    reductions.column_sum(engine, put(engine, a), out)
    np.testing.assert_array_equal(get(engine, out), np.add.accumulate(a, axis=0)[-1])


@pytest.mark.parametrize("size", [1, 16, 17, 16384, 50001])
def test_every_element_is_looked_at_for_what_is_not_finite(engine: Engine, size: int) -> None:
    flag, one = engine.empty((1,), np.int32), np.ones(1, np.int32)
    engine.upload(flag, one)
    host = normal(4, size)
    host[0] = np.finfo(np.float32).max
    array = put(engine, host)
    reductions.clear_unless_finite(engine, array, flag)
    assert get(engine, flag)[0] == 1
    for place in {0, size // 2, size - 1}:
        for value in (np.inf, -np.inf, np.nan, -np.nan):
            spoiled = host.copy()
            spoiled[place] = value
            engine.upload(array, spoiled)
            engine.upload(flag, one)
            reductions.clear_unless_finite(engine, array, flag)
            assert get(engine, flag)[0] == 0


def test_a_finite_view_beside_a_nan_is_finite(engine: Engine) -> None:
    array = put(engine, np.array([np.nan, 1, 2, np.inf], np.float32))
    flag = put(engine, np.ones(1, np.int32))
    reductions.clear_unless_finite(engine, array.view(1, (2,)), flag)
    assert get(engine, flag)[0] == 1


def oracle(kind: str, a: np.ndarray) -> np.ndarray:
    """Reduce the last axis in float64."""
    exact = a.astype(float)
    if kind in ("max", "argmax"):
        return np.asarray(getattr(exact, kind)(axis=-1))
    if kind == "sum":
        return np.asarray(exact.sum(axis=-1))
    return np.asarray(np.linalg.norm(exact, ord=1 if kind == "l1" else 2, axis=-1))


@pytest.mark.parametrize("shape", [(1, 1), (3, 15), (33, 16), (7, 17), (5, 1003)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_reduced(engine: Engine, kind: Reduction, shape: tuple[int, int]) -> None:
    a = normal(5, *shape)
    out = engine.empty((shape[0],), np.int32 if kind == "argmax" else np.float32)
    reductions.reduce_rows(engine, kind, put(engine, a), out)
    np.testing.assert_allclose(get(engine, out), oracle(kind, a), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [1, 255, 257, 5000, 70001])
@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_array_is_reduced(engine: Engine, kind: Reduction, size: int) -> None:
    a = normal(6, size)
    out = engine.empty((1,), np.int32 if kind == "argmax" else np.float32)
    work = reductions.workspace(engine, size, kind)
    reductions.reduce_all(engine, kind, put(engine, a), out, work)
    np.testing.assert_allclose(get(engine, out)[0], oracle(kind, a), rtol=1e-5, atol=1e-3)


def test_sums_are_those_of_numpy_s_engine_bit_for_bit(engine: Engine) -> None:
    host = NumpyEngine(numpy_device())
    a, found = normal(7, 9, 1003), []
    for on in (engine, host):
        array, rows, one = put(on, a), on.empty((9,)), on.empty((1,))
        for kind in SUMS:
            reductions.reduce_rows(on, kind, array, rows)
            reductions.reduce_all(on, kind, array, one, reductions.workspace(on, 9 * 1003))
            found.append(np.append(get(on, rows), get(on, one)))
    for ours, twin in zip(found[:2], found[2:], strict=True):
        np.testing.assert_array_equal(ours, twin)


@pytest.mark.parametrize("place", [0, 7, 300])
def test_a_nan_is_the_largest_and_of_equals_the_first(engine: Engine, place: int) -> None:
    a = np.full(301, -np.inf, np.float32)
    array, one, index = put(engine, a), engine.empty((1,)), engine.empty((1,), np.int32)
    work = reductions.workspace(engine, 301, "max")
    reductions.reduce_all(engine, "argmax", array, index, work)
    assert get(engine, index)[0] == 0
    a[17], a[place], a[299] = np.inf, np.nan, np.nan
    engine.upload(array, a)
    for reduce, extra in ((reductions.reduce_all, (work,)), (reductions.reduce_rows, ())):
        of = array if extra else array.view(0, (1, 301))
        reduce(engine, "argmax", of, index, *extra)
        reduce(engine, "max", of, one, *extra)
        assert get(engine, index)[0] == min(place, 299)
        assert np.isnan(get(engine, one)[0])
    for kind in SUMS:
        reductions.reduce_rows(engine, kind, array.view(0, (1, 301)), one)
        assert np.isnan(get(engine, one)[0])


@pytest.mark.parametrize(
    ("shape", "count"), [((1, 1), 1), ((33, 10), 5), ((7, 100), 100), ((5, 1003), 3)], ids=str
)
def test_the_largest_of_rows(engine: Engine, shape: tuple[int, int], count: int) -> None:
    a = np.round(normal(8, *shape) * 4)  # so that many are equal
    if a.size > 1:
        a[0, [2, 5]], a[0, 3] = np.nan, np.inf
    values, places = engine.empty((shape[0], count)), engine.empty((shape[0], count), np.int32)
    reductions.top_k(engine, put(engine, a), values, places)
    best, at = get(engine, values), get(engine, places)
    for row in range(shape[0]):
        rank = sorted(range(shape[1]), key=lambda x: (not np.isnan(a[row, x]), -a[row, x], x))
        if np.isnan(a[row]).any():
            rank = [2, 5, *(x for x in rank if x not in (2, 5))]
        np.testing.assert_array_equal(at[row], rank[:count])
        np.testing.assert_array_equal(best[row], a[row, rank[:count]])


def test_shapes_that_do_not_fit_are_refused(engine: Engine) -> None:
    a, two, three = engine.empty((3, 4)), engine.empty((2,)), engine.empty((3,))
    with pytest.raises(KernelError, match="column_sum"):
        reductions.column_sum(engine, a, two)
    with pytest.raises(KernelError, match="flag"):
        reductions.clear_unless_finite(engine, a, two)
    with pytest.raises(KernelError, match=r"expected shape \[3\]"):
        reductions.reduce_rows(engine, "sum", a, two)
    with pytest.raises(KernelError, match="result takes int32"):
        reductions.reduce_rows(engine, "argmax", a, three)
    with pytest.raises(KernelError, match="unknown reduction 'product': use one of sum, max"):
        reductions.reduce_rows(engine, "product", a, three)  # type: ignore[arg-type]
    with pytest.raises(KernelError, match="workspace takes int32"):
        reductions.reduce_all(engine, "max", a, engine.empty((1,)), two)
    with pytest.raises(KernelError, match="the largest of 0 elements"):
        reductions.reduce_all(
            engine, "max", engine.empty((0,)), engine.empty((1,)), engine.empty((1,), np.int32)
        )
    with pytest.raises(KernelError, match="no 5 largest of 4"):
        reductions.top_k(engine, a, engine.empty((3, 5)), engine.empty((3, 5), np.int32))
