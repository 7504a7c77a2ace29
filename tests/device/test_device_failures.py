"""A device that fails, or has no more memory, gives an error that names it, and no hang."""

import numpy as np
import pyopencl as cl
import pytest
from exchange import get

from kernels.device.device import POCL
from kernels.engine import Engine, open_engine
from kernels.errors import DeviceError
from kernels.opencl import OpenCLEngine
from kernels.ops.vectors import fill

MEBIBYTE = 1 << 20


@pytest.fixture
def bounded(opencl: OpenCLEngine) -> OpenCLEngine:
    return OpenCLEngine(opencl.info, MEBIBYTE)


@pytest.mark.parametrize("size", [1 << 48, 1 << 62, 1 << 66])
def test_more_than_a_device_has_is_refused(engine: Engine, size: int) -> None:
    with pytest.raises(DeviceError, match="out of memory") as caught:
        engine.empty((size,))
    assert engine.info.name in str(caught.value)


def test_more_than_a_device_gives_at_once_is_refused(opencl: OpenCLEngine) -> None:
    device = opencl.device.cl_device
    largest = device.max_mem_alloc_size
    if largest >= opencl.info.memory_bytes:
        pytest.skip(f"{opencl.info.name} gives all of its memory at once")
    with pytest.raises(DeviceError, match="at once, not") as caught:
        opencl.empty((largest // 4 + 1,))
    assert opencl.info.name in str(caught.value)


@pytest.mark.heavy
def test_many_buffers_do_not_take_more_than_there_is(opencl: OpenCLEngine) -> None:
    # Most drivers give such buffers away, and the process ends when they are filled.
    tenth = opencl.info.memory_bytes // 40
    held = [opencl.empty((tenth,)) for _ in range(9)]
    with pytest.raises(DeviceError, match="out of memory"):
        held += [opencl.empty((tenth,)) for _ in range(2)]


def test_a_bound_is_kept_and_named(bounded: OpenCLEngine) -> None:
    before = bounded.device.memory.taken
    assert 0 <= before < MEBIBYTE // 2
    first = bounded.empty((5 * MEBIBYTE // 32,))
    with pytest.raises(DeviceError, match=r"1,048,576 bytes by device\.memory") as caught:
        bounded.empty((MEBIBYTE // 8,))
    assert bounded.info.name in str(caught.value)
    view = first.view(10, (20,))
    del first
    with pytest.raises(DeviceError, match="raise it"):
        bounded.empty((MEBIBYTE // 8,))
    del view
    assert bounded.device.memory.taken == before
    second = bounded.empty((MEBIBYTE // 8,))
    fill(bounded, second, 2.0)
    assert (get(bounded, second) == 2.0).all()


def test_a_bound_may_be_a_share_of_the_memory(opencl: OpenCLEngine) -> None:
    engine = OpenCLEngine(opencl.info, 0.25)
    assert engine.device.memory.limit == opencl.info.memory_bytes // 4


def test_numpy_cannot_be_bounded() -> None:
    with pytest.raises(DeviceError, match=r"device\.memory bounds OpenCL devices"):
        open_engine("numpy", 1e9)


def test_a_launch_that_fails_is_named_and_leaves_the_device_usable(opencl: OpenCLEngine) -> None:
    program = opencl.device.build("__kernel void one(__global float *a) { a[0] = 1; }", {})
    kernel = opencl.device.kernel(program, "one", (None,))
    array = opencl.empty((1,))
    too_many = 1 << 20
    with pytest.raises(DeviceError, match=r"run a kernel: .*WORK_(GROUP|ITEM)_SIZE") as caught:
        kernel((too_many,), (too_many,), opencl.device.buffer(4))
    assert opencl.info.name in str(caught.value)
    fill(opencl, array, 3.0)
    assert get(opencl, array)[0] == 3.0


def test_a_kernel_that_does_not_build_is_named(
    opencl: OpenCLEngine, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(DeviceError, match="build its kernels") as caught:
        opencl.device.build("__kernel void f( {", {})
    assert opencl.info.name in str(caught.value)
    capfd.readouterr()  # compilers say it on stderr too


@pytest.mark.parametrize("copied", [False, True])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_fails_after_it_was_enqueued_is_seen_by_the_wait(
    opencl: OpenCLEngine, copied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opencl.device, "inline", None)  # it does at once what it is given
    if opencl.info.platform != POCL:
        pytest.skip(f"{opencl.info.platform} does not end what waits for a failed event")
    array, host = opencl.empty((4,)), np.zeros(4, np.float32)
    fill(opencl, array, 1.0)
    opencl.wait()
    gate = cl.UserEvent(opencl.device.context)
    # PoCL 3.0 ends the process where nobody holds the event of what fails.
    barrier = cl.enqueue_barrier(opencl.device.queue, wait_for=[gate])
    if copied:
        opencl.download(array, host)
    else:
        fill(opencl, array, 7.0)
    gate.set_status(cl.status_code.OUT_OF_RESOURCES)
    with pytest.raises(DeviceError, match="a command ended with") as caught:
        opencl.wait()
    assert opencl.info.name in str(caught.value)
    assert barrier.command_execution_status < 0
    opencl.wait()  # it is told once
    assert (get(opencl, array) == 1.0).all()
