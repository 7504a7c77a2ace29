"""Arrays that host and device both reach."""

import numpy as np
import pytest
from exchange import get, normal

from kernels.engine import Array, Engine
from kernels.errors import DeviceError, KernelError
from kernels.opencl import OpenCLEngine
from kernels.ops import vectors


def test_what_is_put_is_computed_with_and_what_is_brought_is_seen(engine: Engine) -> None:
    given, result = engine.shared((5, 7)), engine.shared((5, 7))
    x = normal(1, 5, 7)
    for turn in range(3):
        given.put(x + np.float32(turn))
        vectors.difference(engine, given.array, given.array, result.array)
        vectors.difference(engine, given.array, result.array, result.array, factor=2)
        result.bring()
        engine.wait()
        np.testing.assert_array_equal(result.host, 2 * (x + np.float32(turn)))


def test_fewer_rows_leave_the_others_as_they_were(engine: Engine) -> None:
    shared = engine.shared((4, 3))
    shared.put(np.ones((4, 3), np.float32))
    engine.wait()
    shared.put(np.full((2, 3), 5, np.float32))
    np.testing.assert_array_equal(get(engine, shared.array)[:, 0], [5, 5, 1, 1])


@pytest.mark.heavy
def test_what_was_enqueued_before_sees_what_was_there_before(engine: Engine) -> None:
    shared = engine.shared((1 << 20,))
    zeros = engine.empty((1 << 20,))
    vectors.fill(engine, zeros, 0.0)
    engine.wait()
    first, second = normal(1, 1 << 20), normal(2, 1 << 20)
    outs = [engine.empty((1 << 20,)) for _ in range(2)]
    for values, out in zip((first, second), outs, strict=True):
        shared.put(values)
        vectors.difference(engine, shared.array, zeros, out)
    engine.wait()
    np.testing.assert_array_equal(get(engine, outs[0]), first)
    np.testing.assert_array_equal(get(engine, outs[1]), second)


def test_rows_of_another_shape_and_the_same_size_fit(engine: Engine) -> None:
    shared = engine.shared((4, 6))
    shared.put(normal(1, 3, 2, 3))
    np.testing.assert_array_equal(get(engine, shared.array)[:3], normal(1, 3, 2, 3).reshape(3, 6))


@pytest.mark.heavy
def test_it_outlives_who_dropped_it_while_it_is_used(engine: Engine) -> None:
    size = 1 << 20
    first = (np.arange(size) % 1000).astype(np.float32)

    def enqueue() -> Array:
        shared, out = engine.shared((size,)), engine.empty((size,))
        shared.put(first)
        vectors.fill(engine, out, 1.0)
        for _ in range(20):
            vectors.difference(engine, shared.array, out, out)
        return out

    out = enqueue()
    others = [np.full(size, np.nan, np.float32) for _ in range(4)]  # may get its memory
    engine.wait()
    np.testing.assert_array_equal(get(engine, out), np.ones(size, np.float32), f"{len(others)}")


def test_nothing_is_exchanged_while_a_recording_goes_on(engine: Engine) -> None:
    shared = engine.shared((3,))
    with engine.recording():
        with pytest.raises(KernelError, match="cannot be recorded"):
            shared.put(np.zeros(3, np.float32))
        with pytest.raises(KernelError, match="cannot be recorded"):
            shared.bring()


def test_what_does_not_fit_is_refused(engine: Engine) -> None:
    shared = engine.shared((4, 3), np.int32)
    for values in (
        np.zeros((4, 3), np.float32),
        np.zeros((5, 3), np.int32),
        np.zeros((4, 2), np.int32),
        np.zeros((3, 4), np.int32).T,
        np.int32(1).reshape(()),
    ):
        with pytest.raises(KernelError, match="cannot put"):
            shared.put(values)


def test_it_counts_as_the_device_s_memory(opencl: OpenCLEngine) -> None:
    engine = OpenCLEngine(opencl.info, 4 << 20)
    taken = engine.device.memory.taken
    shared = engine.shared((1 << 18,))
    assert engine.device.memory.taken == taken + (1 << 20)
    with pytest.raises(DeviceError, match=r"device\.memory"):
        engine.shared((1 << 20,))
    with pytest.raises(DeviceError):
        engine.shared((1 << 62,))
    del shared
    assert engine.device.memory.taken == taken
    engine.close()
