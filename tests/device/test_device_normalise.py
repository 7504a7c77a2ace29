from collections.abc import Callable

import numpy as np
import pytest
from exchange import get, normal, put
from gradients import assert_gradient

from kernels.engine import Array, Engine
from kernels.errors import KernelError
from kernels.ops.batch_norm import (
    batch_norm,
    batch_norm_gradient,
    batch_norm_inference,
    batch_workspace,
)
from kernels.ops.layer_norm import layer_norm, layer_norm_gradient
from tests.support.float64 import Float64Engine, plain

ROWS = [(1, 1), (1, 33), (5, 16), (37, 17), (130, 40)]
PLANES = [(7, 5), (33, 64), (2, 1, 3, 3), (3, 18, 1, 1), (5, 3, 4, 5), (2, 20, 9, 7)]


class Case:
    """Arrays of one normalisation on an engine; rows or channels as `by` says."""

    def __init__(self, engine: Engine, shape: tuple[int, ...], by: str, offset: float) -> None:
        self.engine = engine
        self.by = by
        columns = shape[1]
        x = normal(1, *shape) * np.float32(2) + np.float32(offset)
        self.x, self.delta = put(engine, x), put(engine, normal(2, *shape))
        self.gain, self.bias = put(engine, normal(3, columns)), put(engine, normal(4, columns))
        self.out, self.by_x = engine.empty(shape), engine.empty(shape)
        self.by_gain, self.by_bias = engine.empty((columns,)), engine.empty((columns,))
        self.moments = engine.empty((2, shape[0] if by == "rows" else columns))
        start = np.repeat(np.array([[0], [1]], np.float32), columns, axis=1)
        self.running, self.sums = put(engine, start), batch_workspace(engine, shape)

    def forward(self) -> None:
        arrays = (self.x, self.gain, self.bias)
        if self.by == "rows":
            layer_norm(self.engine, *arrays, self.out, self.moments)
        else:
            batch_norm(self.engine, *arrays, self.running, self.out, self.moments, self.sums)

    def back(self) -> None:
        arrays = (self.delta, self.x, self.gain, self.moments)
        results = (self.by_x, self.by_gain, self.by_bias)
        if self.by == "rows":
            layer_norm_gradient(self.engine, *arrays, *results)
        else:
            batch_norm_gradient(self.engine, *arrays, self.sums, *results)


CASES = [("rows", shape) for shape in ROWS] + [("channels", shape) for shape in PLANES]


@pytest.mark.parametrize(("by", "shape"), CASES, ids=str)
@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_it_is_what_float64_computes(
    engine: Engine, by: str, shape: tuple[int, ...], offset: float
) -> None:
    found, exact = Case(engine, shape, by, offset), Case(Float64Engine(), shape, by, offset)
    for case in (found, exact):
        case.forward()
        case.back()
    # Where x is far from 0, it is rounded to 1e-7 of that before anything is computed.
    near = 2e-6 * (1 + offset)
    for name in ("out", "by_x", "by_gain", "by_bias", "running"):
        wanted = plain(getattr(exact, name))
        scale = max(1.0, float(np.abs(wanted).max()))
        got = get(engine, getattr(found, name))
        if shape[0] * np.prod(shape[2:]) > 1 or name != "by_x":
            np.testing.assert_allclose(got, wanted, atol=near * scale, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    ("by", "shape"),
    [("rows", (3, 5)), ("channels", (6, 3)), ("channels", (3, 2, 2, 3))],
    ids=str,
)
def test_gradients_are_those_of_finite_differences(by: str, shape: tuple[int, ...]) -> None:
    case = Case(Float64Engine(), shape, by, 1.0)

    def objective() -> float:
        case.forward()
        return float((plain(case.out) * plain(case.delta)).sum())

    case.forward()
    case.back()
    for given, found in (("x", "by_x"), ("gain", "by_gain"), ("bias", "by_bias")):
        assert_gradient(objective, plain(getattr(case, given)), plain(getattr(case, found)))


@pytest.mark.parametrize("shape", [(40, 19), (6, 5, 4, 3)], ids=str)
def test_a_batch_is_normal_and_its_moments_run(engine: Engine, shape: tuple[int, ...]) -> None:
    x = normal(5, *shape) * 3 + 7
    channels, others = shape[1], (0, *range(2, len(shape)))
    ones, zeros = np.ones(channels, np.float32), np.zeros(channels, np.float32)
    gain, bias = put(engine, ones), put(engine, zeros)
    running, array = put(engine, np.stack((zeros, ones))), put(engine, x)
    moments, out = engine.empty((2, channels)), engine.empty(shape)
    sums = batch_workspace(engine, shape)
    batch_norm(engine, array, gain, bias, running, out, moments, sums, momentum=0.25)
    y = get(engine, out).astype(float)
    np.testing.assert_allclose(y.mean(axis=others), 0, atol=1e-5)
    np.testing.assert_allclose(y.var(axis=others), 1, atol=1e-4)
    mean, variance = x.mean(axis=others), x.var(axis=others, ddof=1)
    wanted = np.stack((0.25 * mean, 0.75 + 0.25 * variance))
    np.testing.assert_allclose(get(engine, running), wanted, rtol=1e-5)
    batch_norm_inference(engine, array, gain, bias, running, out, moments)
    by_channel = (1, channels, *(1,) * (len(shape) - 2))
    mean, variance = (part.reshape(by_channel) for part in wanted)
    exact = (x - mean) / np.sqrt(variance + 1e-5)
    np.testing.assert_allclose(get(engine, out), exact, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("by", "shape"), [("rows", (3, 18)), ("channels", (3, 18))], ids=str)
def test_a_nan_stays_where_it_counts(engine: Engine, by: str, shape: tuple[int, ...]) -> None:
    case = Case(engine, shape, by, 0.0)
    x = normal(1, *shape)
    x[1, 17] = np.nan
    engine.upload(case.x, x)
    engine.wait()
    case.forward()
    spoiled = np.isnan(get(engine, case.out))
    assert (spoiled[1] if by == "rows" else spoiled[:, 17]).all()
    assert spoiled.sum() == (18 if by == "rows" else 3)


def test_the_gradient_may_lie_where_delta_was(engine: Engine) -> None:
    for by, shape in (("rows", (5, 17)), ("channels", (5, 17)), ("channels", (3, 2, 4, 4))):
        case = Case(engine, shape, by, 0.0)
        case.forward()
        case.back()
        wanted, case.by_x = get(engine, case.by_x), case.delta
        case.back()
        np.testing.assert_array_equal(get(engine, case.delta), wanted)


def test_a_constant_input_divides_by_no_zero(engine: Engine) -> None:
    x = put(engine, np.full((4, 6), 3, np.float32))
    gain, bias = put(engine, np.ones(6, np.float32)), put(engine, np.full(6, 2, np.float32))
    out = engine.empty((4, 6))
    layer_norm(engine, x, gain, bias, out, engine.empty((2, 4)))
    assert (get(engine, out) == 2).all()
    batch_norm_inference(
        engine, x, gain, bias, put(engine, np.zeros((2, 6), np.float32)), out, engine.empty((2, 6))
    )
    assert np.isfinite(get(engine, out)).all()


def test_shapes_that_do_not_fit_are_refused(engine: Engine) -> None:
    def make(*shape: int) -> Array:
        return engine.empty(shape)

    refused: list[tuple[str, Callable[..., None], tuple[Array, ...]]] = [
        (r"expected shape \[4\]", layer_norm, (make(3, 4), make(3), make(4), make(3, 4), make(2, 3))),
        (r"expected shape \[2, 3\]", layer_norm,
         (make(3, 4), make(4), make(4), make(3, 4), make(2, 4))),
        ("takes a matrix with rows", layer_norm,
         (make(3, 4, 1, 1), make(4), make(4), make(3, 4), make(2, 3))),
        (r"takes \[B,C\] or \[B,C,H,W\]", batch_norm_inference,
         (make(3, 4, 5), make(4), make(4), make(2, 4), make(3, 4, 5), make(2, 4))),
        ("batch_norm's workspace", batch_norm,
         (make(3, 4, 2, 2), make(4), make(4), make(2, 4), make(3, 4, 2, 2), make(2, 4), make(2, 2, 4))),
        (r"expected shape \[4\]", batch_norm_gradient,
         (make(3, 4), make(3, 4), make(4), make(2, 4), make(2, 3, 4), make(3, 4), make(3), make(4))),
        ("takes float32, not int32", layer_norm_gradient,
         (engine.empty((3, 4), np.int32), make(3, 4), make(4), make(2, 3), make(3, 4), make(4),
          make(4))),
    ]  # fmt: skip
    for match, function, arrays in refused:
        with pytest.raises(KernelError, match=match):
            function(engine, *arrays)
