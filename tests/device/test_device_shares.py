"""However work is shared out among compute units, and however often it is done: the same bits."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
from exchange import get, normal, put

from kernels.device.discovery import devices
from kernels.engine import Array, Engine
from kernels.opencl import OpenCLEngine
from kernels.ops import (
    activations,
    batch_norm,
    dropout,
    embedding,
    layer_norm,
    losses,
    lstm,
    pooling,
    random,
    reductions,
    softmax,
    vectors,
)
from kernels.windows import Window

KINDS: tuple[pooling.Pooling, ...] = ("max", "mean")
SHAPE = (301, 83)
PLANES = (19, 7, 13, 11)
MANY_PLANES = (19, 31, 13, 11)


@pytest.fixture(scope="module", params=["cpu", "cpu with the kernels for GPUs"])
def engines(request: pytest.FixtureRequest) -> Iterator[list[OpenCLEngine]]:
    found = next((info for info in devices() if info.type == "cpu"), None)
    if found is None:
        pytest.skip("no OpenCL CPU device on this host")
    kind = "gpu" if request.param != "cpu" else "cpu"
    opened = [OpenCLEngine(replace(found, compute_units=n, type=kind)) for n in (1, 3, 1000)]
    yield opened
    for engine in opened:
        engine.close()


def run_losses(engine: Engine, make: Callable[..., Array]) -> list[Array]:
    output, labels = put(engine, normal(1, *SHAPE)), np.arange(SHAPE[0], dtype=np.int32) % SHAPE[1]
    target, found = put(engine, np.abs(normal(2, *SHAPE))), []
    for loss, by in (
        (losses.softmax_cross_entropy, put(engine, labels)),
        (losses.softmax_cross_entropy_dense, target),
        (losses.binary_cross_entropy, target),
        (losses.mean_squared_error, target),
    ):
        delta, stats = make(*SHAPE), make(2)
        loss(engine, output, by, delta, stats, losses.workspace(engine, SHAPE[0]))
        found += [delta, stats]
    return found


def run_rows(engine: Engine, make: Callable[..., Array]) -> list[Array]:
    x, found = put(engine, normal(1, *SHAPE)), [make(*SHAPE) for _ in range(6)]
    softmax.softmax(engine, x, found[0])
    softmax.softmax_gradient(engine, x, found[0], found[1])
    softmax.log_softmax(engine, x, found[2])
    softmax.log_softmax_gradient(engine, x, found[2], found[3])
    activations.gelu(engine, x, found[4])
    activations.gelu_gradient(engine, x, x, found[5])
    for name in ("tanh", "sigmoid", "elu", "softplus"):
        found.append(make(*SHAPE))
        activations.activate(engine, name, x, found[-1])
    return found


def run_normalise(engine: Engine, make: Callable[..., Array]) -> list[Array]:
    found = []
    for shape in (SHAPE, PLANES):
        x, channels = put(engine, normal(1, *shape)), shape[1]
        gain, bias = put(engine, normal(2, channels)), put(engine, normal(3, channels))
        out, moments, running = make(*shape), make(2, channels), make(2, channels)
        vectors.fill(engine, running, 0.5)
        sums, by = batch_norm.batch_workspace(engine, shape), [make(channels), make(channels)]
        batch_norm.batch_norm(engine, x, gain, bias, running, out, moments, sums)
        back = make(*shape)
        batch_norm.batch_norm_gradient(engine, out, x, gain, moments, sums, back, *by)
        found += [out, moments, running, back, *by]
    rows, by_rows = make(2, SHAPE[0]), [make(*SHAPE), make(SHAPE[1]), make(SHAPE[1])]
    x, out = put(engine, normal(1, *SHAPE)), make(*SHAPE)
    gain = put(engine, normal(2, SHAPE[1]))
    layer_norm.layer_norm(engine, x, gain, gain, out, rows)
    layer_norm.layer_norm_gradient(engine, out, x, gain, rows, *by_rows)
    return [*found, out, rows, *by_rows]


def run_random(engine: Engine, make: Callable[..., Array]) -> list[Array]:
    found = [make(*SHAPE) for _ in range(4)]
    random.uniform(engine, found[0], key=(1, 2), counter=3)
    random.normal(engine, found[1], key=(1, 2), counter=3)
    random.bernoulli(engine, found[2], 0.3, key=(1, 2), counter=3)
    at = put(engine, dropout.stream((1, 2), 3))
    dropout.dropout(engine, found[1], found[3], at, rate=0.3)
    return found


def run_reductions(engine: Engine, make: Callable[..., Array]) -> list[Array]:
    x, found = put(engine, normal(1, *SHAPE)), [make(SHAPE[1])]
    reductions.column_sum(engine, x, found[0])
    for kind in ("sum", "l1", "l2", "max"):
        rows, one = make(SHAPE[0]), make(1)
        work = reductions.workspace(engine, SHAPE[0] * SHAPE[1], kind)
        reductions.reduce_rows(engine, kind, x, rows)
        reductions.reduce_all(engine, kind, x, one, work)
        found += [rows, one]
    vectors.clip_norm(engine, x, 0.1, reductions.workspace(engine, SHAPE[0] * SHAPE[1]))
    ids = embedding.sort_ids(np.arange(SHAPE[0], dtype=np.int32) % 40)
    sums, order, starts = make(*SHAPE), put(engine, ids.order), put(engine, ids.starts)
    embedding.embedding_gradient(engine, x, order, starts, sums)
    return [*found, x, sums]


def run_images(engine: Engine, make: Callable[..., Array]) -> list[Array]:
    found = []
    for planes, filters, window in (
        (MANY_PLANES, 88, Window((3, 3), padding=(1, 1))),
        (MANY_PLANES, 88, Window((3, 2), (2, 1), (1, 1))),
        (PLANES, 10, Window((3, 3))),
        (PLANES, 10, Window((3, 2), (2, 1), (1, 1))),
    ):
        x = put(engine, normal(1, *planes))
        weights = put(engine, normal(2, filters, planes[1], *window.size))
        small = (planes[0], filters, *window.over(planes[2:]))
        delta = put(engine, normal(3, *small))
        out, by_x, by_weights = make(*small), make(*planes), make(*weights.shape)
        by_bias = make(filters)
        engine.convolve(x, weights, out, window)
        engine.convolve_input(delta, weights, by_x, window)
        engine.convolve_weights(x, delta, by_weights, window, filter_sums=by_bias)
        found += [out, by_x, by_weights, by_bias]
    halves, fewer = Window((2, 2), (2, 2)), (*PLANES[:2], *(side // 2 for side in PLANES[2:]))
    for kind in KINDS:
        out, back = make(*fewer), make(*PLANES)
        pooling.pool(engine, kind, x, out, halves)
        pooling.pool_gradient(engine, kind, out, x, back, halves)
        found += [out, back]
    return found


def run_lstm(engine: Engine, make: Callable[..., Array]) -> list[Array]:
    batch, units = 67, 45
    weights = lstm.LstmWeights(
        put(engine, normal(1, 20, 4 * units)),
        put(engine, normal(2, units, 4 * units)),
        put(engine, normal(3, 4 * units)),
    )
    x, state = put(engine, normal(4, batch, 20)), put(engine, normal(5, batch, units))
    gates, work, by_gates = (make(batch, 4 * units) for _ in range(3))
    cell, hidden, by_hidden, by_cell = (make(batch, units) for _ in range(4))
    lstm.lstm_cell(engine, weights, x, state, state, work, gates, cell, hidden)
    results = (by_gates, by_hidden, by_cell)
    lstm.lstm_cell_gradient(engine, weights, hidden, (state, state), gates, state, cell, *results)
    return [gates, cell, hidden, *results]


@pytest.mark.parametrize(
    "family",
    [
        *(run_losses, run_rows, run_normalise, run_random, run_reductions),
        *(pytest.param(family, marks=pytest.mark.heavy) for family in (run_images, run_lstm)),
    ],
)
def test_results_do_not_depend_on_the_sharing_out(
    engines: list[OpenCLEngine], family: Callable[..., list[Array]]
) -> None:
    seen = []
    for engine in (*engines, engines[0]):
        arrays = family(engine, lambda *shape, on=engine: on.empty(shape))
        seen.append([get(engine, array) for array in arrays])
    for others in seen[1:]:
        for place, (one, other) in enumerate(zip(seen[0], others, strict=True)):
            np.testing.assert_array_equal(one, other, err_msg=str(place))
