import numpy as np
import pytest
from exchange import get, normal, put

from kernels.engine import Engine
from kernels.errors import KernelError
from kernels.ops import reductions


@pytest.mark.parametrize("shape", [(1, 1), (3, 17), (33, 129), (128, 784)], ids=str)
def test_column_sum_adds_rows_in_order(engine: Engine, shape: tuple[int, int]) -> None:
    a = normal(3, *shape)
    out = engine.empty((shape[1],))
    reductions.column_sum(engine, put(engine, a), out)
    np.testing.assert_array_equal(get(engine, out), np.add.accumulate(a, axis=0)[-1])


@pytest.mark.parametrize("size", [1, 16, 17, 16384, 50001])
def test_all_finite_sees_every_element(engine: Engine, size: int) -> None:
    flag = engine.empty((1,), np.int32)
    host = normal(4, size)
    host[0] = np.finfo(np.float32).max
    array = put(engine, host)
    reductions.all_finite(engine, array, flag)
    assert get(engine, flag)[0] == 1
    for place in {0, size // 2, size - 1}:
        for value in (np.inf, -np.inf, np.nan, -np.nan):
            spoiled = host.copy()
            spoiled[place] = value
            engine.upload(array, spoiled)
            reductions.all_finite(engine, array, flag)
            assert get(engine, flag)[0] == 0


def test_a_finite_view_beside_a_nan_is_finite(engine: Engine) -> None:
    array = put(engine, np.array([np.nan, 1, 2, np.inf], np.float32))
    flag = engine.empty((1,), np.int32)
    reductions.all_finite(engine, array.view(1, (2,)), flag)
    assert get(engine, flag)[0] == 1


def test_shapes_that_do_not_fit_are_refused(engine: Engine) -> None:
    a, two = engine.empty((3, 4)), engine.empty((2,))
    with pytest.raises(KernelError, match="column_sum"):
        reductions.column_sum(engine, a, two)
    with pytest.raises(KernelError, match="flag"):
        reductions.all_finite(engine, a, two)
