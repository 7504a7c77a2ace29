"""Local steps and clipping: on every engine what one gets by hand, step by step."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from kernels.device.discovery import devices, numpy_device
from kernels.engine import Engine, open_engine
from kernels.host import HostArray, NumpyEngine
from kernels.ops import reductions, vectors
from kernels.rule_twin import RuleTwin
from kernels.rules import RuleSpec, Update, state_count
from nodes.data import Dataset, load_dataset, permutation
from nodes.data.config import DataConfig
from nodes.errors import ModelError
from nodes.models import Model, ModelConfig
from nodes.training import compute as computes
from nodes.training.compute import ModelCompute
from nodes.training.learner import Clip, Learner, Local
from paramserver.types import Span

RATE = 0.1
SIZES = (32, 32, 17)


@pytest.fixture(params=[*(str(info.index) for info in devices()), "numpy"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    opened = open_engine(request.param)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset(DataConfig(source="digits"))


@pytest.fixture(scope="module")
def model(digits: Dataset) -> Model:
    layers = [{"units": 16, "activation": "relu"}, {}]
    return Model.for_dataset(ModelConfig.model_validate({"layers": layers}), digits)


def minibatches(digits: Dataset) -> list[tuple[Any, Any]]:
    order, start, found = permutation(1, 0, len(digits.train_x)), 0, []
    for rows in SIZES:
        x, y = digits.buffers(rows)
        digits.batch(order[start : start + rows], x, y)
        found.append((x, y))
        start += rows
    return found


def by_hand(
    engine: Engine, model: Model, pairs: list[tuple[Any, Any]], spec: RuleSpec, clip: Clip
) -> tuple[np.ndarray, float, int]:
    """Take the same steps one by one on the host: weights, sum of losses, correct answers."""
    learner, twin, host = Learner(engine, model, 32), RuleTwin(spec), NumpyEngine(numpy_device())
    weights, gradient = model.initial_weights(1), np.empty(model.size, np.float32)
    state = tuple(np.zeros(model.size, np.float32) for _ in range(state_count(spec.name)))
    loss, correct = 0.0, 0
    for step, (x, y) in enumerate(pairs, 1):
        result = learner.gradient(weights, x, y, gradient)
        if clip.value is not None:
            vectors.clip_value(host, HostArray(gradient), clip.value * len(x))
        if clip.norm is not None:
            sums = reductions.workspace(host, model.size)
            vectors.clip_norm(host, HostArray(gradient), clip.norm * len(x), sums)
        twin.apply(Update(weights, weights, state, gradient, 1 / len(x), RATE, step))
        loss += result.loss_sum
        correct += result.correct
    return weights, loss, correct


@pytest.mark.parametrize("name", ["sgd", "momentum", "adamw"])
@pytest.mark.parametrize("clip", [Clip(), Clip(value=0.02, norm=0.1)])
def test_local_steps_are_those_one_takes_by_hand(
    engine: Engine, digits: Dataset, model: Model, name: str, clip: Clip
) -> None:
    spec = RuleSpec(name, weight_decay=0.05)
    pairs = minibatches(digits)
    weights, loss, correct = by_hand(engine, model, pairs, spec, clip)
    pulled, out = model.initial_weights(1), np.empty(model.size, np.float32)
    results = {}
    for key, average, weighted in (("w", True, False), ("d", False, False), ("n", False, True)):
        local = Local(spec, period=3, average=average, weighted=weighted)
        learner = Learner(engine, model, 32, clip=clip, local=local)
        # Twice from the same weights: the rule's state begins at zero each time.
        for given in (pulled, None):
            before = engine.waits
            result = learner.local_steps(given, iter(pairs), RATE, out)
            assert engine.waits == before + 1
            assert (result.loss_sum, result.correct, result.examples) == (loss, correct, 81)
            assert result.finite
            assert np.array_equal(results.setdefault(key, out.copy()), out)
    cpu = engine.info.type in ("cpu", "numpy")
    if cpu:
        np.testing.assert_array_equal(results["w"], weights)
    np.testing.assert_allclose(results["w"], weights, atol=1e-6)
    np.testing.assert_array_equal(results["d"], pulled - results["w"])
    np.testing.assert_array_equal(results["n"], results["d"] * np.float32(81))


@pytest.mark.parametrize("clip", [Clip(value=0.003), Clip(norm=0.05), Clip(norm=100.0)])
def test_the_mean_gradient_is_clipped(
    engine: Engine, digits: Dataset, model: Model, clip: Clip
) -> None:
    (x, y), *_ = minibatches(digits)
    plain, found = np.empty(model.size, np.float32), np.empty(model.size, np.float32)
    Learner(engine, model, 32).gradient(model.initial_weights(1), x, y, plain)
    learner = Learner(engine, model, 32, clip=clip)
    before = engine.waits
    assert learner.gradient(model.initial_weights(1), x, y, found).finite
    assert engine.waits == before + 1
    mean = plain.astype(float) / 32
    if clip.value is not None:
        mean = np.clip(mean, -clip.value, clip.value)
        assert np.count_nonzero(np.abs(mean) == clip.value) > 100
    elif clip.norm is not None:
        mean *= min(1.0, clip.norm / float(np.linalg.norm(mean)))
    np.testing.assert_allclose(found / 32, mean, rtol=1e-5, atol=1e-9)
    x[3, 5] = np.inf
    with np.errstate(invalid="ignore"):
        assert not learner.gradient(None, x, y, found).finite


def test_what_local_steps_cannot_do_is_told(digits: Dataset, model: Model) -> None:
    pairs = minibatches(digits)
    weights, out = model.initial_weights(1), np.empty(model.size, np.float32)
    learner = Learner(NumpyEngine(numpy_device()), model, 32, local=Local(RuleSpec("sgd"), 3))
    with np.errstate(all="ignore"):
        assert not learner.local_steps(weights, pairs, 1e38, out).finite
    with pytest.raises(ModelError, match="more minibatches than the 3 of a period"):
        learner.local_steps(weights, pairs * 2, RATE, out)


def test_minibatches_that_do_not_fit_the_host_s_memory_give_the_same(
    digits: Dataset, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = open_engine("auto")
    local = Local(RuleSpec("momentum"), period=40)
    pieces = [Span(at, at + 30) for at in range(0, 1200, 30)] + [Span(1200, 1200)]
    seen, waits = [], []
    monkeypatch.setattr(computes, "EVALUATE_ROWS", 20)
    for held, ahead, largest in ((16 << 20, 64, 30), (1, 64, 30), (16 << 20, 7, 30), (1, 64, 3)):
        monkeypatch.setattr(computes, "HELD_BYTES", held)
        monkeypatch.setattr(computes, "STEPS_AHEAD", ahead)
        one = ModelCompute(engine, model, digits, seed=1, largest=largest, local=local)
        before, out = engine.waits, np.empty(model.size, np.float32)
        result = one.local(one.initial_weights(1), 0, pieces, RATE, out)
        assert (result.examples, result.finite) == (1200, True)
        seen.append((result, out.tobytes()))
        waits.append(engine.waits - before)
    assert seen[1:] == seen[:1] * 3
    assert waits == [1, 40, 6, 42]
    engine.close()


def test_weights_that_come_with_no_example_are_for_the_calls_that_follow(
    digits: Dataset, model: Model
) -> None:
    engine = NumpyEngine(numpy_device())
    local = Local(RuleSpec("sgd"), period=2)
    first, second = model.initial_weights(1), model.initial_weights(2)
    out, wanted = np.empty(model.size, np.float32), np.empty(model.size, np.float32)
    one = ModelCompute(engine, model, digits, seed=1, largest=32, local=local)
    one.gradient(second, 0, 0, 32, wanted)
    for empty in (
        lambda: one.gradient(second, 0, 7, 7, out),
        lambda: one.local(second, 0, [Span(7, 7)], RATE, out),
    ):
        one.gradient(first, 0, 0, 32, out)
        assert empty().examples == 0
        assert not out.any()
        one.gradient(None, 0, 0, 32, out)
        np.testing.assert_array_equal(out, wanted)
