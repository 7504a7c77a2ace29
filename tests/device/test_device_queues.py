"""Small work is done in the calling thread, large work by the device's threads, and all in order."""

import numpy as np
import pytest

from kernels.device import device as opened
from kernels.interface import Array
from kernels.opencl import OpenCLEngine
from kernels.ops import vectors


@pytest.fixture
def inline(opencl: OpenCLEngine) -> OpenCLEngine:
    if opencl.device.inline is None:
        pytest.skip(f"{opencl.info.platform} has no device that computes in the calling thread")
    opencl.wait()
    return opencl


def filled(engine: OpenCLEngine, size: int, value: float) -> Array:
    array = engine.empty((size,))
    vectors.fill(engine, array, value)
    return array


def test_an_idle_device_does_small_work_inline_and_large_work_by_threads(
    inline: OpenCLEngine,
) -> None:
    device = inline.device
    few, many = 1000.0, 10 * opened.LONGEST_INLINE
    assert device.queue_for(few) is device.inline
    assert device.queue_for(many) is device.queue
    filled(inline, 1 << 22, 1.0)
    assert device.queue_for(few) is device.queue  # behind what is under way
    inline.wait()
    assert device.queue_for(few) is device.inline
    inline.wait()


def test_more_threads_are_worth_waking_for_more_work(
    inline: OpenCLEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = inline.device
    monkeypatch.setattr(opened, "WAKING", 1e4)
    worth = 1e4 / (1 - 1 / device.info.compute_units) if device.info.compute_units > 1 else 1e5
    assert device.queue_for(0.9 * worth) is device.inline
    inline.wait()
    assert device.queue_for(1.9 * worth, kernels=2) is device.inline
    inline.wait()


def test_what_goes_to_both_is_done_in_order(inline: OpenCLEngine) -> None:
    size = 1 << 20
    large, small = inline.empty((size,)), inline.empty((16,))
    host, sums = np.empty(size, np.float32), np.empty(16, np.float32)
    for round_ in range(20):
        vectors.fill(inline, small, float(round_))
        vectors.fill(inline, large, float(round_))
        vectors.fill(inline, large.view(7, (16,)), -1.0)
        inline.download(large, host)
        inline.download(small, sums)
        if round_ % 3 == 0:
            inline.wait()
            assert (sums == round_).all()
            assert (host[7:23] == -1).all()
            assert (host[:7] == round_).all()
            assert (host[23:] == round_).all()
    inline.wait()


def test_a_replay_computes_the_same_on_either_queue(
    inline: OpenCLEngine, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = (rng.standard_normal((40, 40), np.float32) for _ in range(2))
    there = [inline.empty((40, 40)) for _ in range(3)]
    inline.upload(there[0], a)
    inline.upload(there[1], b)
    with inline.recording() as replay:
        inline.matmul(*there, activation="tanh")
        inline.matmul(there[2], there[1], there[0], form="nt")
    results = []
    for device in (inline.device.inline, None):
        monkeypatch.setattr(inline.device, "inline", device)
        inline.upload(there[0], a)
        inline.wait()
        replay()
        found = np.empty((40, 40), np.float32)
        inline.download(there[0], found)
        inline.wait()
        results.append(found)
    assert (results[0] == results[1]).all()
