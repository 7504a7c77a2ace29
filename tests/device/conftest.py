from collections.abc import Iterator
from dataclasses import replace

import pytest

from kernels.device import choose, devices
from kernels.engine import Engine, open_engine
from kernels.opencl import OpenCLEngine

FOUND = devices()
OPENCL = [str(info.index) for info in FOUND]
# The kernels for GPUs run on any device, if slowly: so they are tested where there is no GPU.
GPU_KERNELS = [f"{info.index} with the kernels for GPUs" for info in FOUND if info.type == "cpu"]


def opened(select: str) -> Engine:
    index, _, gpu = select.partition(" ")
    if gpu:
        return OpenCLEngine(replace(choose(index), type="gpu"))
    return open_engine(select)


@pytest.fixture(scope="session", params=[*OPENCL, *GPU_KERNELS, "numpy"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    engine = opened(request.param)
    yield engine
    engine.close()


@pytest.fixture(
    scope="session",
    params=[*OPENCL, *GPU_KERNELS]
    or [pytest.param("none", marks=pytest.mark.skip("no OpenCL device on this host"))],
)
def opencl(request: pytest.FixtureRequest) -> Iterator[OpenCLEngine]:
    engine = opened(request.param)
    assert isinstance(engine, OpenCLEngine)
    yield engine
    engine.close()
