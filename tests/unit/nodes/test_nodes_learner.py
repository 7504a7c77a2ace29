"""The learner against central differences in float64, and on every engine against that one."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from float64_engine import exact_learner

from kernels.device.choice import choose
from kernels.device.discovery import devices, numpy_device
from kernels.engine import Array, Engine, open_engine
from kernels.host import NumpyEngine
from kernels.opencl import OpenCLEngine
from nodes.errors import ModelError
from nodes.models import Model, ModelConfig
from nodes.training.learner import Learner

STEP = 1e-6
INPUTS, ROWS = 5, 7


class Counting(NumpyEngine):
    """Notes which operations were enqueued."""

    def __init__(self) -> None:
        super().__init__(numpy_device())
        self.done: list[str] = []

    def matmul(self, a: Array, b: Array, out: Array, **keys: Any) -> None:
        self.done.append(f"matmul {keys.get('form', 'nn')}")
        super().matmul(a, b, out, **keys)


def model(loss: str = "cross_entropy", *hidden: str) -> Model:
    layers: list[dict[str, object]] = [{"units": 6, "activation": name} for name in hidden]
    config = ModelConfig.model_validate({"layers": [*layers, {}], "loss": loss})
    return Model(config, (INPUTS,), 4)


def minibatch(which: Model, rng: np.random.Generator, rows: int = ROWS) -> tuple[Any, Any]:
    x = rng.standard_normal((rows, INPUTS)).astype(np.float32)
    if which.loss == "cross_entropy":
        return x, rng.integers(0, 4, rows).astype(np.int32)
    return x, rng.standard_normal((rows, 4)).astype(np.float32)


def weights_of(which: Model, rng: np.random.Generator) -> np.ndarray:
    return which.initial_weights(1) + rng.standard_normal(which.size).astype(np.float32) * 0.1


FOUND = [str(info.index) for info in devices()]
# As a GPU a device shares no memory with the host.
GPUS = [f"{info.index} as a GPU" for info in devices() if info.type == "cpu"]


@pytest.fixture(params=[*FOUND, *GPUS, "numpy"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    index, _, gpu = request.param.partition(" ")
    opened = OpenCLEngine(replace(choose(index), type="gpu")) if gpu else open_engine(index)
    yield opened
    opened.close()


@pytest.mark.parametrize("loss", ["cross_entropy", "mean_squared"])
@pytest.mark.parametrize(
    "hidden", [(), ("relu",), ("tanh",), ("sigmoid",), ("identity", "relu", "tanh")]
)
def test_the_gradient_is_the_loss_s_derivative(
    loss: str, hidden: tuple[str, ...], rng: np.random.Generator
) -> None:
    which = model(loss, *hidden)
    learner = exact_learner(which, ROWS)
    x, y = minibatch(which, rng)
    weights = weights_of(which, rng).astype(np.float64)
    gradient = np.empty(which.size)
    learner.gradient(weights, x, y, gradient)
    numeric = np.empty_like(gradient)
    for index in range(which.size):
        sides = []
        for sign in (1, -1):
            moved = weights.copy()
            moved[index] += sign * STEP
            sides.append(learner.evaluate(moved, x, y).loss_sum)
        numeric[index] = (sides[0] - sides[1]) / (2 * STEP)
    scale = np.abs(gradient).max()
    close = np.abs(numeric - gradient) <= 1e-6 * scale
    # A relu's kink may lie within the step; nowhere else may a difference be off.
    assert close.all() or ("relu" in hidden and (~close).mean() < 0.05)


@pytest.mark.parametrize("loss", ["cross_entropy", "mean_squared"])
def test_every_device_computes_what_float64_does(
    engine: Engine, loss: str, rng: np.random.Generator
) -> None:
    which = model(loss, "relu", "tanh")
    x, y = minibatch(which, rng)
    weights = weights_of(which, rng)
    precise, found = np.empty(which.size), np.empty(which.size, np.float32)
    wanted = exact_learner(which, ROWS).gradient(weights.astype(np.float64), x, y, precise)
    result = Learner(engine, which, 32).gradient(weights, x, y, found)
    np.testing.assert_allclose(found, precise, atol=2e-6 * np.abs(precise).max())
    assert result.loss_sum == pytest.approx(wanted.loss_sum, rel=1e-5)
    assert (result.correct, result.examples, result.finite) == (wanted.correct, ROWS, True)


def test_a_step_waits_once(engine: Engine, rng: np.random.Generator) -> None:
    which = model("cross_entropy", "relu")
    learner = Learner(engine, which, ROWS)
    x, y = minibatch(which, rng)
    out = np.empty(which.size, np.float32)
    before = engine.waits
    learner.gradient(weights_of(which, rng), x, y, out)
    assert engine.waits == before + 1
    learner.gradient(None, x[:3], y[:3], out)
    assert engine.waits == before + 2
    learner.evaluate(None, x, y)
    assert engine.waits == before + 3


def test_a_minibatch_is_the_sum_of_its_rows(engine: Engine, rng: np.random.Generator) -> None:
    which = model("cross_entropy", "tanh")
    learner = Learner(engine, which, ROWS)
    x, y = minibatch(which, rng)
    whole, part = np.empty(which.size, np.float32), np.empty(which.size, np.float32)
    result = learner.gradient(weights_of(which, rng), x, y, whole)
    total, loss, correct = np.zeros(which.size), 0.0, 0
    for start, stop in ((0, 1), (1, 5), (5, ROWS)):
        one = learner.gradient(None, x[start:stop], y[start:stop], part)
        total += part
        loss += one.loss_sum
        correct += one.correct
    np.testing.assert_allclose(total, whole, atol=1e-5)
    assert loss == pytest.approx(result.loss_sum, rel=1e-5)
    assert correct == result.correct


def test_what_is_not_finite_is_told(engine: Engine, rng: np.random.Generator) -> None:
    which = model("cross_entropy", "relu")
    learner = Learner(engine, which, ROWS)
    x, y = minibatch(which, rng)
    weights = weights_of(which, rng)
    out = np.empty(which.size, np.float32)
    for poison in (np.nan, np.inf):
        poisoned = x.copy()
        poisoned[2, 1] = poison
        with np.errstate(invalid="ignore"):
            assert not learner.gradient(weights, poisoned, y, out).finite
            assert not learner.evaluate(weights, poisoned, y).finite
    assert learner.gradient(weights, x, y, out).finite


def test_the_first_layer_needs_no_gradient_by_its_input(rng: np.random.Generator) -> None:
    which = model("cross_entropy", "relu", "relu")
    engine = Counting()
    learner = Learner(engine, which, ROWS)
    engine.done.clear()
    x, y = minibatch(which, rng)
    learner.gradient(weights_of(which, rng), x, y, np.empty(which.size, np.float32))
    forward, backward = ["matmul nn"] * 3, ["matmul tn", "matmul nt"] * 2 + ["matmul tn"]
    assert engine.done == forward + backward


def test_vectors_of_another_size_are_refused(engine: Engine, rng: np.random.Generator) -> None:
    which = model("cross_entropy", "relu")
    learner = Learner(engine, which, ROWS)
    x, y = minibatch(which, rng)
    right, wrong = np.empty(which.size, np.float32), np.empty(which.size + 1, np.float32)
    with pytest.raises(ModelError, match=f"for a model of {which.size} parameters"):
        learner.gradient(wrong, x, y, right)
    with pytest.raises(ModelError, match=f"for a model of {which.size} parameters"):
        learner.gradient(weights_of(which, rng), x, y, wrong)


@pytest.mark.parametrize("targets", [0, ROWS - 1, ROWS + 1])
def test_inputs_and_targets_of_different_minibatches_are_refused(
    engine: Engine, rng: np.random.Generator, targets: int
) -> None:
    which = model("cross_entropy", "relu")
    learner = Learner(engine, which, 2 * ROWS)
    x, _ = minibatch(which, rng)
    out = np.empty(which.size, np.float32)
    with pytest.raises(ModelError, match=f"{ROWS} rows of inputs with {targets} of targets"):
        learner.gradient(weights_of(which, rng), x, np.zeros(targets, np.int32), out)


def test_more_arrays_than_are_mirrored_are_copied(
    engine: Engine, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nodes.training.hostvectors.MOST_MIRRORS", 3)
    which = model("cross_entropy", "relu")
    learner = Learner(engine, which, ROWS)
    x, y = minibatch(which, rng)
    weights = [weights_of(which, rng) for _ in range(3)]
    gradients = [np.empty(which.size, np.float32) for _ in range(6)]
    for index, gradient in enumerate(gradients):
        learner.gradient(weights[index % 3], x, y, gradient)
    for one, again in zip(gradients[:3], gradients[3:], strict=True):
        np.testing.assert_array_equal(one, again)
    assert not np.array_equal(gradients[0], gradients[1])


def test_a_minibatch_of_more_rows_makes_room(engine: Engine, rng: np.random.Generator) -> None:
    which = model("mean_squared", "tanh")
    x, y = minibatch(which, rng, 40)
    weights = weights_of(which, rng)
    small, large = np.empty(which.size, np.float32), np.empty(which.size, np.float32)
    learner = Learner(engine, which, ROWS)
    learner.gradient(weights, x[:ROWS], y[:ROWS], small)
    grown = learner.gradient(None, x, y, small)
    assert grown == Learner(engine, which, 40).gradient(weights, x, y, large)
    np.testing.assert_array_equal(small, large)


def test_what_does_not_fit_is_refused(rng: np.random.Generator) -> None:
    which = model()
    learner = Learner(NumpyEngine(numpy_device()), which, ROWS)
    x, y = minibatch(which, rng)
    out = np.empty(which.size, np.float32)
    with pytest.raises(ModelError, match="a minibatch without a row"):
        learner.gradient(weights_of(which, rng), x[:0], y[:0], out)
    with pytest.raises(ModelError, match="no weights on the device yet"):
        learner.evaluate(None, x[:1], y[:1])
