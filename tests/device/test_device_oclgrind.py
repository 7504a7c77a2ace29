"""Oclgrind finds what it is there to find, or its silence about our kernels would mean nothing."""

import pytest

from kernels.device.choice import choose
from kernels.device.device import OpenDevice
from kernels.device.discovery import devices

FAULTY = """
__kernel void past_the_end(__global float *a) { a[get_global_id(0)] = 1; }
__kernel void one_place(__global float *a) { a[0] = get_global_id(0); }
"""


@pytest.mark.long
@pytest.mark.skipif(
    all(info.platform != "Oclgrind" for info in devices()), reason="not under Oclgrind"
)
@pytest.mark.parametrize(
    ("name", "report"), [("past_the_end", "Invalid write"), ("one_place", "data race")]
)
def test_a_fault_is_reported(name: str, report: str, capfd: pytest.CaptureFixture[str]) -> None:
    device = OpenDevice(choose())
    kernel = device.kernel(device.build(FAULTY, {}), name, (None,))
    kernel((8,), (1,), device.buffer(16))
    device.close()
    assert report in capfd.readouterr().err
