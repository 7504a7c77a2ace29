import numpy as np
import pytest
from exchange import get, normal, put

from kernels.engine import Engine
from kernels.errors import KernelError
from kernels.ops.planes import channel_sum


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 16), (2, 17, 33), (7, 3, 4, 5)], ids=str)
def test_channel_sum(engine: Engine, shape: tuple[int, ...]) -> None:
    x = normal(1, *shape)
    out = engine.empty((shape[1],))
    channel_sum(engine, put(engine, x), out)
    expected = np.moveaxis(x.astype(float), 1, 0).reshape(shape[1], -1).sum(axis=1)
    np.testing.assert_allclose(get(engine, out), expected, rtol=1e-5, atol=1e-5)


def test_shapes_that_do_not_fit_are_refused(engine: Engine) -> None:
    with pytest.raises(KernelError, match=r"takes \[B,C,...\]"):
        channel_sum(engine, engine.empty((2, 3)), engine.empty((3,)))
    with pytest.raises(KernelError, match=r"expected shape \[3\]"):
        channel_sum(engine, engine.empty((2, 3, 4)), engine.empty((4,)))
