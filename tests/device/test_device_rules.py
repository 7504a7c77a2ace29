import numpy as np
import pytest
from exchange import normal

from kernels import rules
from kernels.engine import Engine
from kernels.errors import KernelError
from kernels.opencl import OpenCLEngine
from kernels.rule_twin import RuleTwin
from kernels.rules import RULES, RuleRunner, RuleSpec, Update, state_count

RATE, SCALE = 0.05, 0.25


def expected(spec: RuleSpec, weights: np.ndarray, gradients: list[np.ndarray]) -> np.ndarray:
    """Apply a rule in float64 as the papers write it."""
    w = weights.astype(float)
    m, v = np.zeros_like(w), np.zeros_like(w)
    for step, gradient in enumerate(gradients, 1):
        g = gradient.astype(float) * SCALE
        if spec.name == "adamw":
            w = w - RATE * spec.weight_decay * w
        else:
            g = g + spec.weight_decay * w
        match spec.name:
            case "sgd":
                w = w - RATE * g
            case "momentum":
                m = spec.momentum * m + g
                w = w - RATE * m
            case "nesterov":
                m = spec.momentum * m + g
                w = w - RATE * (g + spec.momentum * m)
            case "adagrad":
                v = v + g * g
                w = w - RATE * g / (np.sqrt(v) + spec.epsilon)
            case "rmsprop":
                v = spec.decay * v + (1 - spec.decay) * g * g
                w = w - RATE * g / (np.sqrt(v) + spec.epsilon)
            case _:
                m = spec.beta1 * m + (1 - spec.beta1) * g
                v = spec.beta2 * v + (1 - spec.beta2) * g * g
                unbiased = v / (1 - spec.beta2**step)
                w = w - RATE * m / (1 - spec.beta1**step) / (np.sqrt(unbiased) + spec.epsilon)
    return w


def run(runner: RuleRunner, sizes: list[int], steps: int) -> list[list[np.ndarray]]:
    """Return weights and state of several ranges after some updates of all of them."""
    ranges = []
    for index, size in enumerate(sizes):
        count = state_count(runner.spec.name)
        ranges.append([normal(index, size), *(np.zeros(size, np.float32) for _ in range(count))])
    for step in range(1, steps + 1):
        runner.apply(
            [
                Update(w, w, tuple(state), normal(100 * step + i, w.size), SCALE, RATE, step)
                for i, (w, *state) in enumerate(ranges)
            ]
        )
    return ranges


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
@pytest.mark.parametrize("size", [1, 17, 40001])
def test_a_rule_does_what_its_paper_says(
    engine: Engine, name: str, weight_decay: float, size: int
) -> None:
    spec = RuleSpec(name, weight_decay=weight_decay)
    (result,) = run(RuleRunner(engine, spec), [size], 3)
    gradients = [normal(100 * step, size) for step in (1, 2, 3)]
    exact = expected(spec, normal(0, size), gradients)
    np.testing.assert_allclose(result[0], exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
def test_kernel_and_twin_are_equal_bit_for_bit(
    opencl: OpenCLEngine, name: str, weight_decay: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = RuleRunner(opencl, RuleSpec(name, weight_decay=weight_decay))
    assert runner.twin_is_equal
    results = []
    for below in (0, 1 << 40):
        monkeypatch.setattr(rules, "TWIN_BELOW", (below,) * 3)
        results.append(run(runner, [1, 15, 1000, 1000, 20000, 70000], 3))
    for ours, theirs in zip(*results, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(a.view(np.uint32), b.view(np.uint32))


@pytest.mark.parametrize("size", [100, 70000])
def test_new_weights_go_elsewhere_and_the_gradient_stays(engine: Engine, size: int) -> None:
    weights, gradient, out = normal(1, size), normal(2, size), np.zeros(size, np.float32)
    velocity = np.zeros(size, np.float32)
    kept = weights.copy(), gradient.copy()
    gradient.flags.writeable = weights.flags.writeable = False
    runner = RuleRunner(engine, RuleSpec("momentum"))
    runner.apply([Update(weights, out, (velocity,), gradient, 1.0, RATE, 1)])
    np.testing.assert_array_equal(weights, kept[0])
    np.testing.assert_array_equal(gradient, kept[1])
    np.testing.assert_array_equal(velocity, gradient)
    np.testing.assert_array_equal(out, weights - np.float32(RATE) * gradient)


def test_many_large_updates_take_one_wait(opencl: OpenCLEngine) -> None:
    runner = RuleRunner(opencl, RuleSpec("adam"))
    before = opencl.waits
    run(runner, [40000] * 5, 1)
    assert opencl.waits - before == (1 if opencl.info.type == "cpu" else 0)


def test_a_twin_that_differs_is_never_used(
    opencl: OpenCLEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    if opencl.info.type != "cpu":
        pytest.skip("the twin does everything where weights do not lie in the device's memory")
    real = RuleTwin.apply

    def off_by_one_bit(twin: RuleTwin, update: Update) -> None:
        real(twin, update)
        update.out[0] = np.nextafter(update.out[0], np.float32(9))

    monkeypatch.setattr(RuleTwin, "apply", off_by_one_bit)
    runner = RuleRunner(opencl, RuleSpec("sgd"))
    assert not runner.twin_is_equal
    (result,) = run(runner, [8], 1)
    np.testing.assert_array_equal(
        result[0], normal(0, 8) - normal(100, 8) * np.float32(SCALE) * np.float32(RATE)
    )


def test_arrays_that_do_not_fit_are_refused(engine: Engine) -> None:
    runner = RuleRunner(engine, RuleSpec("momentum"))
    w, g = normal(1, 8), normal(2, 8)
    with pytest.raises(KernelError, match="1 state arrays, got 0"):
        runner.apply([Update(w, w, (), g, 1.0, RATE, 1)])
    with pytest.raises(KernelError, match="one size"):
        runner.apply([Update(w, w, (g,), g[:7], 1.0, RATE, 1)])
    with pytest.raises(KernelError, match="one size"):
        runner.apply([Update(w, w, (g,), g.astype(float), 1.0, RATE, 1)])
    with pytest.raises(KernelError, match="unknown update rule 'lion'"):
        RuleSpec("lion")
