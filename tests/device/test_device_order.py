"""Operations only enqueue: a step waits once, and allocates nothing once it is warm."""

import threading

import numpy as np
import pyopencl as cl
import pytest
from exchange import get, normal, put

from kernels.engine import Array, Engine
from kernels.errors import DeviceError, KernelError
from kernels.opencl import OpenCLEngine
from kernels.ops import losses, random, reductions, vectors
from kernels.rule_twin import RuleSpec


class Step:
    """One training step of a small network, as a worker would enqueue it."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.host_x, self.host_labels = normal(1, 32, 20), np.zeros(32, np.int32)
        self.host_stats = np.zeros(2, np.float32)
        self.x, self.labels = engine.empty((32, 20)), engine.empty((32,), np.int32)
        self.first, self.second = put(engine, normal(2, 20, 30)), put(engine, normal(3, 30, 10))
        self.bias = put(engine, normal(4, 30))
        self.hidden, self.logits = engine.empty((32, 30)), engine.empty((32, 10))
        self.delta, self.back = engine.empty((32, 10)), engine.empty((32, 30))
        self.gradient = engine.empty((20 * 30 + 30 + 30 * 10,))
        self.stats, self.flag = engine.empty((2,)), put(engine, np.ones(1, np.int32))
        self.rows, self.sums = losses.workspace(engine, 32), reductions.workspace(engine, 930)
        self.noise = engine.empty((32, 30))
        self.rule = engine.rule(RuleSpec("momentum"))
        self.weights, self.velocity = put(engine, normal(5, 930)), engine.empty((930,))
        self.moved = engine.empty((930,))

    def run(self) -> None:
        engine, gradient = self.engine, self.gradient
        engine.upload(self.x, self.host_x)
        engine.upload(self.labels, self.host_labels)
        random.uniform(engine, self.noise, key=(1, 2), counter=3)
        engine.matmul(self.x, self.first, self.hidden, bias=self.bias, activation="tanh")
        engine.matmul(self.hidden, self.second, self.logits)
        losses.softmax_cross_entropy(
            engine, self.logits, self.labels, self.delta, self.stats, self.rows
        )
        losses.mean_squared_error(engine, self.hidden, self.noise, self.back, self.stats, self.rows)
        last: Array = gradient.view(630, (30, 10))
        engine.matmul(self.hidden, self.delta, last, form="tn")
        engine.matmul(
            self.delta, self.second, self.back, form="nt", derivative=("tanh", self.hidden)
        )
        by_bias = gradient.view(600, (30,))
        engine.matmul(self.x, self.back, gradient.view(0, (20, 30)), form="tn", column_sums=by_bias)
        vectors.clip_value(engine, gradient, 0.1)
        vectors.clip_norm(engine, gradient, 0.5, self.sums)
        vectors.fill(engine, self.velocity, 0.0)
        self.rule(
            self.weights, self.moved, gradient, [self.velocity], scale=1 / 32, rate=0.1, step=1
        )
        vectors.difference(engine, self.weights, self.moved, self.moved, factor=32)
        reductions.clear_unless_finite(engine, self.moved, self.flag)
        engine.download(self.stats, self.host_stats)


def test_no_operation_waits(opencl: OpenCLEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opencl.device, "inline", None)  # it does at once what it is given
    step = Step(opencl)
    step.run()
    opencl.wait()
    before = opencl.waits
    gate = cl.UserEvent(opencl.device.context)
    cl.enqueue_barrier(opencl.device.queue, wait_for=[gate])
    # Nothing enqueued can run before the gate opens, so an operation that waits would hang here.
    thread = threading.Thread(target=step.run, daemon=True)
    thread.start()
    thread.join(timeout=10)
    stuck = thread.is_alive()
    gate.set_status(cl.command_execution_status.COMPLETE)
    thread.join(timeout=10)
    assert not stuck, "an operation waited for the device"
    assert opencl.waits == before
    opencl.wait()
    assert opencl.waits == before + 1
    assert get(opencl, step.flag)[0] == 1


def test_a_warm_step_allocates_nothing(
    opencl: OpenCLEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Step(opencl)
    step.run()
    opencl.wait()
    asked: list[int] = []
    monkeypatch.setattr(opencl.device, "buffer", asked.append)
    for _ in range(3):
        step.run()
        opencl.wait()
    assert asked == []


def test_a_step_repeats_bit_for_bit(engine: Engine) -> None:
    step = Step(engine)
    results = []
    for _ in range(3):
        step.run()
        results.append(np.append(get(engine, step.gradient), get(engine, step.moved)))
    np.testing.assert_array_equal(results[1], results[0])
    np.testing.assert_array_equal(results[2], results[0])


def test_waits_are_counted(engine: Engine) -> None:
    before = engine.waits
    engine.wait()
    assert engine.waits == before + 1


def test_arrays_of_another_engine_are_refused(opencl: OpenCLEngine) -> None:
    from kernels.device.discovery import numpy_device
    from kernels.host import NumpyEngine

    other = NumpyEngine(numpy_device())
    mine, foreign = opencl.empty((2, 2)), other.empty((2, 2))
    with pytest.raises(KernelError, match="does not belong to this engine"):
        opencl.matmul(mine, foreign, mine)
    with pytest.raises(KernelError, match="another engine"):
        other.matmul(foreign, mine, foreign)


def test_a_device_error_names_the_device(opencl: OpenCLEngine) -> None:
    with pytest.raises(DeviceError) as caught:
        opencl.empty((1 << 50,))
    assert opencl.info.name in str(caught.value)
    assert "smaller" in str(caught.value) or "start this peer again" in str(caught.value)
